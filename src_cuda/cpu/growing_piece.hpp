// The events of rows of a dense input, read some rows at a time.
//
// Cost: that of compress_rows.hpp, and doubling where the room that was expected does not do.
#pragma once

#include <type_traits>

#include "collected_events.hpp"
#include "dispatch.hpp"

namespace sparse_backend {

// Byte inputs leave float values.
template <class Input>
using EventValue = std::conditional_t<std::is_same_v<Input, uint8_t>, float, Input>;

// Evenly spaced rows of an input, and the first of those that are read next.
template <class Input>
struct EvenRows {
    const Input* first;
    int64_t stride, count;
    const Input* then;
};

// Without val: -1 where an entry is not one.
template <class Input>
int64_t compress_rows(const EvenRows<Input>& rows, int64_t width, int32_t* idx, EventValue<Input>* val,
                      int32_t* counts) {
    if constexpr (std::is_same_v<Input, uint8_t>)
        return kernels().compress_bytes(rows.first, rows.stride, rows.count, width, rows.then, idx, val, counts);
    else
        return kernels_for<Input>().compress_rows(rows.first, rows.stride, rows.count, width, rows.then, idx, val,
                                                  counts);
}

// A piece of a chunk while it grows. Values are kept from the first one that is not one.
template <class Input>
class GrowingPiece {
  public:
    typedef EventValue<Input> Value;

    // t: its first step.  rows, room: how many rows and events to expect.
    GrowingPiece(int64_t t, int64_t rows, int64_t room) : room_(room) {
        piece_.t = t;
        piece_.counts.reserve(rows);
        piece_.idx.reserve(room);
    }

    // Returns the number of events added. Without memory for them nothing has changed.
    int64_t add(const EvenRows<Input>& rows, int64_t width) {
        make_room(rows.count, rows.count * width);
        int32_t* counts = piece_.counts.get() + rows_;
        int64_t added = compress_rows(rows, width, next_idx(), valued_ ? next_value() : nullptr, counts);
        if (added < 0) {
            piece_.values.reserve(size(room_));
            valued_ = true;
            std::fill_n(reinterpret_cast<Value*>(piece_.values.get()), piece_.count, Value(1));
            added = compress_rows(rows, width, next_idx(), next_value(), counts);
        }
        rows_ += rows.count;
        piece_.count += added;
        return added;
    }
    // Forgets all rows but the first.
    void keep(int64_t rows) {
        while (rows_ > rows) piece_.count -= piece_.counts.get()[--rows_];
    }
    // Writes some of the last rows, without gaps.
    void write(int64_t row, int64_t rows, int64_t width, Value* out) const {
        const int32_t* counts = piece_.counts.get();
        int64_t e = piece_.count;
        for (int64_t r = rows_; r > row;) e -= counts[--r];
        std::fill_n(out, rows * width, Value(0));
        for (const int64_t end = row + rows; row < end; ++row, out += width)
            for (const int64_t last = e + counts[row]; e < last; ++e)
                out[piece_.idx.get()[e]] = valued_ ? reinterpret_cast<Value*>(piece_.values.get())[e] : Value(1);
    }
    int64_t count() const { return piece_.count; }
    bool valued() const { return valued_; }
    // The piece of `steps` steps; nothing is left here.
    EventPiece finish(int64_t steps) {
        piece_.steps = steps;
        return std::move(piece_);
    }

  private:
    static int64_t size(int64_t count) { return count * int64_t(sizeof(Value)); }
    int32_t* next_idx() const { return piece_.idx.get() + piece_.count; }
    Value* next_value() const { return reinterpret_cast<Value*>(piece_.values.get()) + piece_.count; }
    void make_room(int64_t rows, int64_t entries) {
        const int64_t least = piece_.count + entries + append_room;
        if (least > room_) room_ = std::max(least, 2 * room_);
        piece_.counts.reserve(rows_ + rows, rows_);
        piece_.idx.reserve(room_, piece_.count);
        if (valued_) piece_.values.reserve(size(room_), size(piece_.count));
    }

    EventPiece piece_;
    int64_t rows_ = 0, room_;  // room_: events
    bool valued_ = false;
};

}  // namespace sparse_backend
