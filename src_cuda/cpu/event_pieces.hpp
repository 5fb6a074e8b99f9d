// Lists of events as the threads leave them, and their way into the batch-major lists of the format.
//
// Cost of writing: one pass over the row counts and one copy of the events, in one parallel region.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "buffer.hpp"

namespace sparse_backend {

// Kernels append in whole vectors, a little past the end.
constexpr int64_t append_room = 16;

// The order in which rows (b, t) are visited: groups of batch elements in turn, the elements of a group together, step
// by step. One element together is the order of the format; all of them that of time. A row is visited once per tile,
// its events being those of the visits in turn; a tile's visits follow those of the one before.
struct Visits {
    int64_t steps = 0, batch = 0, tiles = 1;
    int64_t together = 1;  // elements of a group, at most most_together or all; the last may have fewer

    static constexpr int64_t most_together = 32;

    int64_t rows() const { return steps * batch; }
    int64_t count() const { return tiles * rows(); }
    // Of the group that begins with element b.
    int64_t elements(int64_t b) const { return std::min(together, batch - b); }
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

// Where one of the arrays of a list is written; no address: nowhere.
struct EventTarget {
    const char* (*source)(const EventPiece&);
    int64_t size;  // bytes per event, a multiple of four
    char* to;

    static EventTarget idx(int64_t address);
    static EventTarget values(int64_t size, int64_t address);
    static EventTarget extras(int64_t size, int64_t address);
};

class EventPieces {
  public:
    void prepare(const Visits& visits, int64_t pieces);

    std::vector<EventPiece> pieces;
    int32_t* counts() const { return counts_.get(); }  // events of each visit
    int64_t total() const;

    // ptr [rows + 1] receives the beginning of each row. Then finish(from, to) is called for all ranges of events.
    void write(int64_t* ptr, const std::vector<EventTarget>& targets, int64_t threads,
               const std::function<void(int64_t, int64_t)>& finish = nullptr) const;

  private:
    std::vector<int64_t> first_events() const;
    void place(int64_t b, int64_t elements, const std::vector<int64_t>& first, int64_t* ptr, int64_t* begin) const;
    void copy(const EventPiece& piece, int64_t end, const int64_t* begin, const EventTarget& target) const;
    // Whether the visits are the rows of the format.
    bool in_order() const { return visits_.tiles == 1 && visits_.together == 1; }

    Visits visits_;
    Buffer<int32_t> counts_;
};

}  // namespace sparse_backend
