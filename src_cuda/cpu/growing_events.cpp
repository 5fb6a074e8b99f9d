#include "growing_events.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "view.hpp"

namespace sparse_backend {

GrowingEvents::GrowingEvents(int64_t batch, int64_t inputs, int dtype, int64_t threads)
    : batch_(batch), inputs_(inputs), threads_(threads) {
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

int64_t GrowingEvents::add(int64_t x, int64_t stride_b) {
    if (!x) throw std::invalid_argument("growing events: x must not be null");
    std::vector<int64_t> added(size_t(chunks().count()), -1);
    const int64_t count = chunks().count();
    std::visit(
        [&](auto& pieces) {
            typedef typename std::decay_t<decltype(pieces)>::value_type::Value Real;
            ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(threads_, count)))
            for (int64_t k = 0; k < count; ++k)
                errors.guard([&] {
                    const Chunk chunk = chunks()[k];
                    const Real* first = address<Real>(x) + chunk.b * stride_b;
                    // What is read next is not known; what was just read costs nothing to ask for.
                    added[size_t(k)] = pieces[size_t(k)].add({first, stride_b, chunk.elements, first}, inputs_);
                });
            for (int64_t k = 0; errors && k < count; ++k)
                if (added[size_t(k)] >= 0) pieces[size_t(k)].drop(chunks()[k].elements, added[size_t(k)]);
            errors.rethrow();
        },
        pieces_);
    ++steps_;
    return count_ += std::accumulate(added.begin(), added.end(), int64_t(0));
}

std::unique_ptr<CollectedEvents> GrowingEvents::finish() {
    if (!steps_) throw std::invalid_argument("growing events: there is no step, or they have been taken");
    const Chunks chunks = this->chunks();
    const int64_t steps = std::exchange(steps_, 0), count = chunks.count();
    auto list = std::make_unique<CollectedEvents>();
    std::visit(
        [&](auto& pieces) {
            typedef typename std::decay_t<decltype(pieces)>::value_type::Value Real;
            list->prepare(chunks, 1, Order::by_step, sizeof(Real));
            ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(threads_, count)))
            for (int64_t k = 0; k < count; ++k) errors.guard([&] { list->add(k, 0, pieces[size_t(k)].finish(steps)); });
            errors.rethrow();
        },
        pieces_);
    return list;
}

}  // namespace sparse_backend
