// Lists of events as threads find them, chunk by chunk, and the batch-major lists of the format, to which chunks are
// appended.
//
// Cost: a chunk's row counts, or the rows of its events, are read once and its events copied once, while they still lie
// in the cache of the thread that found them.
#pragma once

#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "buffer.hpp"

namespace sparse_backend {

// Kernels append in whole vectors, a little past the end.
constexpr int64_t append_room = 16;

// Rows (b, t) that are done as one: whole batch elements, or a stretch of one through time.
struct Chunk {
    int64_t b, elements;  // batch elements b .. b + elements - 1
    int64_t t, steps;     // steps t .. t + steps - 1
    int64_t rows() const { return elements * steps; }
};

// How the rows are cut into chunks; these follow each other in the order of the format.
class Chunks {
  public:
    Chunks() = default;
    // elements: batch elements of a chunk.  stretch: steps of a chunk, fewer than all only with one element.
    Chunks(int64_t batch, int64_t steps, int64_t elements, int64_t stretch)
        : batch_(batch), steps_(steps), elements_(elements), stretch_(stretch) {}
    Chunks(int64_t batch, int64_t steps, int64_t elements) : Chunks(batch, steps, elements, steps) {}

    Chunk operator[](int64_t k) const {
        const int64_t b = k / stretches() * elements_, t = k % stretches() * stretch_;
        return {b, std::min(elements_, batch_ - b), t, std::min(stretch_, steps_ - t)};
    }
    int64_t count() const { return (batch_ + elements_ - 1) / elements_ * stretches(); }
    int64_t rows() const { return batch_ * steps_; }
    int64_t row(const Chunk& chunk) const { return chunk.b * steps_ + chunk.t; }

  private:
    int64_t stretches() const { return (steps_ + stretch_ - 1) / stretch_; }

    int64_t batch_ = 0, steps_ = 0, elements_ = 1, stretch_ = 1;
};

// Whether a chunk's rows are visited element by element, which is the order of the format, or step by step (then events
// have no extras); or its events are so few that each has its row beside it, in any order.
enum class Order { by_element, by_step, by_event };

// A part of a chunk's events, in the order of the visits: those of some neurons, or of some steps.
struct EventPiece {
    int64_t t = 0, steps = 0;  // steps of the chunk, counted from its first
    int64_t count = 0;
    Buffer<int32_t> counts;  // events of each visit
    Buffer<int32_t> rows;    // by event: the chunk's, counted from its first
    Buffer<int32_t> idx;
    Buffer<char> values, extras;  // without values they are ones
};

// A list in the format. Chunks may come from any thread, in any order; each is appended when its turn has come, by
// whoever finds that, and nobody waits for another's chunk.
class CollectedEvents {
  public:
    // pieces: of a chunk; an event of an earlier one comes first in its row.  value_size, extra_size: bytes per event,
    // multiples of four.
    void prepare(const Chunks& chunks, int64_t pieces, Order order, int64_t value_size, int64_t extra_size = 0);
    bool wanted() const { return chunks_.rows(); }
    // Before the first piece, where it is known: how many events will come, and whether with values.
    void expect(int64_t count, bool valued);

    // Every piece of every chunk once.
    void add(int64_t chunk, int64_t number, EventPiece piece);

    int64_t count() const { return count_; }
    bool valued() const { return valued_; }

    Buffer<int64_t> ptr;  // where each row begins, and the end
    Buffer<int32_t> idx;
    Buffer<char> values, extras;  // values: only if a piece had some

  private:
    struct Part {
        std::vector<EventPiece> pieces;
        int64_t missing = 0;  // pieces
        int64_t first = 0;    // event
        int64_t count() const;
        bool valued() const;
    };

    void place(Part& part);
    void make_room(int64_t total, bool valued);
    void copy(const Part& part, const Chunk& chunk);
    void copy_piece(const EventPiece& piece, int64_t first);
    void copy_steps(const Part& part, const Chunk& chunk, int64_t* begin);
    void copy_rows(const Part& part, const Chunk& chunk, int64_t* begin);
    void copy_events(const EventPiece& piece, int64_t first, const Chunk& chunk, int64_t* begin);
    void fill_ones(int64_t from, int64_t to);

    Chunks chunks_;
    Order order_ = Order::by_element;
    int64_t value_size_ = 0, extra_size_ = 0, count_ = 0, next_ = 0, room_ = 0;  // room_: events
    bool valued_ = false;
    std::vector<Part> parts_;
    std::mutex turn_;           // of parts_, next_, count_ and room_
    std::shared_mutex arrays_;  // shared: written into; alone: moved
};

}  // namespace sparse_backend
