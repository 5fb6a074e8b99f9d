#include "growing_events.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "view.hpp"

namespace sparse_backend {

GrowingEvents::GrowingEvents(int64_t batch, int64_t inputs, int dtype, int64_t threads)
    : batch_(batch), inputs_(inputs) {
    if (batch < 1 || inputs < 1 || threads < 1)
        throw std::invalid_argument("growing events: batch, inputs and threads must be positive");
    if (dtype != float32 && dtype != float64)
        throw std::invalid_argument("dtype=" + std::to_string(dtype) + " must be FLOAT32 or FLOAT64");
    constexpr int64_t most_elements = 32;
    elements_ = std::clamp(batch / (2 * threads), int64_t(1), most_elements);
    if (dtype == float32)
        start<float>();
    else
        start<double>();
}

template <class Real>
void GrowingEvents::start() {
    Pieces<Real>& pieces = pieces_.emplace<Pieces<Real>>();
    for (int64_t k = 0; k < chunks().count(); ++k) pieces.emplace_back(0, 0, 0);
}

void GrowingEvents::check_there() const {
    if (taken_) throw std::invalid_argument("growing events: they have been taken");
}

// t: one of the first `end` steps.
void GrowingEvents::check_step(int64_t t, int64_t end, int64_t address) const {
    check_there();
    if (t < 0 || t >= end)
        throw std::invalid_argument("growing events: t=" + std::to_string(t) + " must be at least 0 and less than " +
                                    std::to_string(end));
    if (!address) throw std::invalid_argument("growing events: x and out must not be null");
}

// Forgets all steps but the first.
void GrowingEvents::keep(int64_t steps) {
    steps_ = steps;
    std::visit(
        [&](auto& pieces) {
            for (size_t k = 0; k < pieces.size(); ++k) pieces[k].keep(steps * chunks()[int64_t(k)].elements);
        },
        pieces_);
}

int64_t GrowingEvents::add(int64_t t, int64_t x, int64_t stride_b, int64_t threads) {
    check_step(t, steps_ + 1, x);
    keep(t);
    int64_t sum = 0;
    std::visit(
        [&](auto& pieces) {
            typedef typename std::decay_t<decltype(pieces)>::value_type::Value Real;
            const int64_t count = chunks().count();
            ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(threads, count)))
            for (int64_t k = 0; k < count; ++k)
                errors.guard([&] {
                    const Chunk chunk = chunks()[k];
                    const Real* first = address<Real>(x) + chunk.b * stride_b;
                    // What is read next is not known; what was just read costs nothing to ask for.
                    pieces[size_t(k)].add({first, stride_b, chunk.elements, first}, inputs_);
                });
            if (errors) keep(t);
            errors.rethrow();
            for (const auto& piece : pieces) sum += piece.count();
        },
        pieces_);
    ++steps_;
    return sum;
}

void GrowingEvents::write_step(int64_t t, int64_t out) const {
    check_step(t, steps_, out);
    std::visit(
        [&](const auto& pieces) {
            typedef typename std::decay_t<decltype(pieces)>::value_type::Value Real;
            for (size_t k = 0; k < pieces.size(); ++k) {
                const Chunk chunk = chunks()[int64_t(k)];
                pieces[k].write(t * chunk.elements, chunk.elements, inputs_, writable<Real>(out) + chunk.b * inputs_);
            }
        },
        pieces_);
}

std::unique_ptr<CollectedEvents> GrowingEvents::finish(int64_t steps, int64_t threads) {
    check_there();
    if (steps < 1 || steps > steps_)
        throw std::invalid_argument("growing events: steps=" + std::to_string(steps) + " must be 1 to " +
                                    std::to_string(steps_));
    keep(steps);
    auto list = std::make_unique<CollectedEvents>();
    std::visit(
        [&](auto& pieces) {
            typedef typename std::decay_t<decltype(pieces)>::value_type::Value Real;
            const int64_t count = chunks().count();
            list->prepare(chunks(steps), 1, Order::by_step, sizeof(Real));
            int64_t total = 0;
            bool valued = false;
            for (const auto& piece : pieces) {
                total += piece.count();
                valued |= piece.valued();
            }
            list->expect(total, valued);  // memory first: from here on the events are only in the list
            taken_ = true;
            ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(threads, count)))
            for (int64_t k = 0; k < count; ++k) errors.guard([&] { list->add(k, 0, pieces[size_t(k)].finish(steps)); });
            errors.rethrow();
        },
        pieces_);
    return list;
}

}  // namespace sparse_backend
