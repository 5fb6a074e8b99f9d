#include "event_pieces.hpp"

#include <algorithm>
#include <numeric>

namespace sparse_backend {

EventTarget EventTarget::idx(int64_t address) {
    return {[](const EventPiece& piece) { return reinterpret_cast<const char*>(piece.idx.get()); }, sizeof(int32_t),
            reinterpret_cast<char*>(address)};
}

EventTarget EventTarget::values(int64_t size, int64_t address) {
    return {[](const EventPiece& piece) { return static_cast<const char*>(piece.values.get()); }, size,
            reinterpret_cast<char*>(address)};
}

EventTarget EventTarget::extras(int64_t size, int64_t address) {
    return {[](const EventPiece& piece) { return static_cast<const char*>(piece.extras.get()); }, size,
            reinterpret_cast<char*>(address)};
}

void EventPieces::prepare(const Visits& visits, int64_t count) {
    visits_ = visits;
    counts_.reserve(visits.count());
    pieces.resize(size_t(count));
}

int64_t EventPieces::total() const {
    return std::accumulate(pieces.begin(), pieces.end(), int64_t(0),
                           [](int64_t sum, const EventPiece& piece) { return sum + piece.count; });
}

// Where each batch element's events begin, and the end.
std::vector<int64_t> EventPieces::first_events() const {
    const int64_t steps = visits_.steps, batch = visits_.batch;
    std::vector<int64_t> first(size_t(batch) + 1);
    const int32_t* counts = counts_.get();
    for (int64_t k = 0; k < visits_.tiles; ++k)
        for (int64_t b = 0; b < batch; b += visits_.together) {
            const int64_t elements = visits_.elements(b);
            int64_t* sums = first.data() + b + 1;
            if (elements == 1) *sums = std::accumulate(counts, counts + steps, *sums);
            for (int64_t t = 0; t < steps && elements > 1; ++t)
                for (int64_t e = 0; e < elements; ++e) sums[e] += counts[t * elements + e];
            counts += steps * elements;
        }
    std::partial_sum(first.begin(), first.end(), first.begin());
    return first;
}

// Elements b .. b + elements - 1 of one group: ptr of each row, and where each visit's events go.
void EventPieces::place(int64_t b, int64_t elements, const std::vector<int64_t>& first, int64_t* ptr,
                        int64_t* begin) const {
    const int64_t steps = visits_.steps, group = b - b % visits_.together, stride = visits_.elements(group);
    int64_t next[Visits::most_together];
    std::copy_n(first.data() + b, elements, next);
    for (int64_t t = 0; t < steps; ++t)
        for (int64_t e = 0; e < elements; ++e) {
            ptr[(b + e) * steps + t] = next[e];
            for (int64_t k = 0; k < visits_.tiles; ++k) {
                const int64_t visit = k * visits_.rows() + group * steps + t * stride + (b - group) + e;
                begin[visit] = next[e];
                next[e] += counts_.get()[visit];
            }
        }
}

// The events of one piece, whose visits end before `end`, to where they belong, in words of four bytes.
void EventPieces::copy(const EventPiece& piece, int64_t end, const int64_t* begin, const EventTarget& target) const {
    const char* from = target.source(piece);
    if (!target.to || !piece.count) return;
    if (in_order()) {
        std::memcpy(target.to + begin[piece.first] * target.size, from, size_t(piece.count * target.size));
        return;
    }
    // Many visits have few events, if any: for them a call of the C library costs more than the copy.
    constexpr int64_t few = 4;
    const int64_t words = target.size / int64_t(sizeof(int32_t));
    const int32_t *counts = counts_.get(), *next = reinterpret_cast<const int32_t*>(from);
    for (int64_t visit = piece.first; visit < end; ++visit) {
        const int64_t count = counts[visit] * words;
        int32_t* to = reinterpret_cast<int32_t*>(target.to) + begin[visit] * words;
        if (count > few)
            std::memcpy(to, next, size_t(count) * sizeof(int32_t));
        else
            for (int64_t k = 0; k < count; ++k) to[k] = next[k];
        next += count;
    }
}

void EventPieces::write(int64_t* ptr, const std::vector<EventTarget>& targets, int64_t threads,
                        const std::function<void(int64_t, int64_t)>& finish) const {
    constexpr int64_t events_at_once = 4096;
    const int64_t batch = visits_.batch, number = int64_t(pieces.size());
    const int64_t block = std::min(visits_.together, Visits::most_together);
    const std::vector<int64_t> first = first_events();
    const Buffer<int64_t> memory(in_order() ? 0 : visits_.count());
    int64_t* begin = in_order() ? ptr : memory.get();
    ptr[visits_.rows()] = first.back();
#pragma omp parallel num_threads(int(threads))
    {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < batch; b += block) place(b, std::min(block, batch - b), first, ptr, begin);
#pragma omp for schedule(static, 1)
        for (int64_t p = 0; p < number; ++p)
            for (const EventTarget& target : targets)
                copy(pieces[size_t(p)], p + 1 < number ? pieces[size_t(p) + 1].first : visits_.count(), begin, target);
        if (finish)
#pragma omp for schedule(static)
            for (int64_t from = 0; from < first.back(); from += events_at_once)
                finish(from, std::min(from + events_at_once, first.back()));
    }
}

}  // namespace sparse_backend
