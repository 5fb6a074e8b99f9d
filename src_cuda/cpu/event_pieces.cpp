#include "event_pieces.hpp"

#include <numeric>

namespace sparse_backend {

void EventPieces::prepare(const Visits& visits, int64_t count) {
    visits_ = visits;
    counts_.reserve(visits.count());
    pieces.resize(size_t(count));
}

int64_t EventPieces::total() const {
    return std::accumulate(pieces.begin(), pieces.end(), int64_t(0),
                           [](int64_t sum, const EventPiece& piece) { return sum + piece.count; });
}

Buffer<int64_t> EventPieces::place(int64_t* ptr, int64_t threads) const {
    const int64_t steps = visits_.steps, batch = visits_.batch, rows = visits_.rows(), tiles = visits_.tiles;
    const int32_t* counts = counts_.get();
    Buffer<int64_t> begin(visits_.count());
    std::vector<int64_t> first(size_t(batch) + 1);  // of each batch element
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t k = 0; k < tiles; ++k)
            for (int64_t t = 0; t < steps; ++t) first[size_t(b) + 1] += counts[k * rows + visits_.of(b, t)];
    std::partial_sum(first.begin(), first.end(), first.begin());
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t b = 0; b < batch; ++b) {
        int64_t next = first[size_t(b)];
        for (int64_t t = 0; t < steps; ++t) {
            ptr[b * steps + t] = next;
            for (int64_t k = 0; k < tiles; ++k) {
                const int64_t visit = k * rows + visits_.of(b, t);
                begin.get()[visit] = next;
                next += counts[visit];
            }
        }
    }
    ptr[rows] = first.back();
    return begin;
}

// Copies the pieces' entries, `size` bytes each, to where they belong.
template <class Source>
void EventPieces::write(const Buffer<int64_t>& begin, int64_t size, char* out, const Source& source) const {
    const int32_t* counts = counts_.get();
    const int64_t* to = begin.get();
    const int64_t number = int64_t(pieces.size());
#pragma omp parallel for schedule(static, 1) num_threads(int(number))
    for (int64_t p = 0; p < number; ++p) {
        const char* from = source(pieces[size_t(p)]);
        const int64_t end = p + 1 < number ? pieces[size_t(p) + 1].first : visits_.count();
        for (int64_t visit = pieces[size_t(p)].first; visit < end;) {
            const int64_t at = to[visit];
            int64_t copied = 0;
            // Visits whose events stay together are copied at once.
            do copied += counts[visit++];
            while (visit < end && to[visit] == at + copied);
            if (copied) std::memcpy(out + at * size, from, size_t(copied * size));
            from += copied * size;
        }
    }
}

void EventPieces::write_idx(const Buffer<int64_t>& begin, int32_t* idx) const {
    write(begin, sizeof(int32_t), reinterpret_cast<char*>(idx),
          [](const EventPiece& piece) { return reinterpret_cast<const char*>(piece.idx.get()); });
}

void EventPieces::write_values(const Buffer<int64_t>& begin, int64_t size, void* out) const {
    write(begin, size, static_cast<char*>(out), [](const EventPiece& piece) { return piece.values.get(); });
}

void EventPieces::write_extras(const Buffer<int64_t>& begin, int64_t size, void* out) const {
    write(begin, size, static_cast<char*>(out), [](const EventPiece& piece) { return piece.extras.get(); });
}

}  // namespace sparse_backend
