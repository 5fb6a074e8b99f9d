// Lists of events as the threads leave them, and their way into the batch-major lists of the format.
//
// Cost of writing: one pass over the row counts and one copy of the events, in parallel.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.hpp"

namespace sparse_backend {

// Kernels append in whole vectors, a little past the end.
constexpr int64_t append_room = 16;

// The order in which rows (b, t) are visited. A row is visited once per tile, its events being those of the visits in
// turn.
struct Visits {
    int64_t steps = 0, batch = 0, tiles = 1;
    bool time_major = false;  // visit t * batch + b, else b * steps + t; a tile's visits follow those of the one before

    int64_t rows() const { return steps * batch; }
    int64_t count() const { return tiles * rows(); }
    int64_t of(int64_t b, int64_t t) const { return time_major ? t * batch + b : b * steps + t; }
};

// The events of consecutive visits.
struct EventPiece {
    int64_t first = 0;  // visit
    int64_t count = 0;  // events
    Buffer<int32_t> idx;
    Buffer<char> values, extras;

    // Makes every value so far the given one.
    template <class Value>
    void fill(Value value) {
        values.reserve(count * int64_t(sizeof(Value)));
        std::fill_n(reinterpret_cast<Value*>(values.get()), count, value);
    }
};

class EventPieces {
  public:
    void prepare(const Visits& visits, int64_t pieces);

    std::vector<EventPiece> pieces;
    int32_t* counts() const { return counts_.get(); }  // events of each visit
    int64_t total() const;

    // Where each visit's events begin in the final list; ptr [rows + 1] receives the beginning of each row.
    Buffer<int64_t> place(int64_t* ptr, int64_t threads) const;
    void write_idx(const Buffer<int64_t>& begin, int32_t* idx) const;
    // size: bytes per event.
    void write_values(const Buffer<int64_t>& begin, int64_t size, void* out) const;
    void write_extras(const Buffer<int64_t>& begin, int64_t size, void* out) const;

  private:
    template <class Source>
    void write(const Buffer<int64_t>& begin, int64_t size, char* out, const Source& source) const;

    Visits visits_;
    Buffer<int32_t> counts_;
};

}  // namespace sparse_backend
