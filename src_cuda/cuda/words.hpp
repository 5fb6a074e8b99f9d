// Event lists read back as bits: the entries of one row that belong to a warp's 32 neurons.
#pragma once

#include "view.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

struct Word {
    uint32_t bits;
    int64_t first;  // entry of the lowest bit

    SB_INLINE bool has(int lane) const { return bits >> lane & 1; }
};

// Cost: a binary search in the row (a few entries, one or two cache lines), then one read per entry of the word.
SB_DEVICE Word find_word(const EventRows& list, int64_t row, int64_t word) {
    const int64_t end = list.ptr[row + 1], low = word * lanes;
    int64_t from = list.ptr[row], to = end;
    while (from < to) {
        const int64_t middle = from + (to - from) / 2;
        if (list.idx[middle] < low)
            from = middle + 1;
        else
            to = middle;
    }
    Word found = {0, from};
    for (int64_t e = from; e < end && list.idx[e] < low + lanes; ++e) found.bits |= 1u << (list.idx[e] - low);
    return found;
}

// The words of up to block_steps consecutive rows, one per lane: the searches run side by side.
struct WordBlock {
    Word mine = {0, 0};

    SB_DEVICE void find(const EventRows& list, const Lane& place, int64_t row, int count) {
        mine = {0, 0};
        if (list.ptr && place.lane < count) mine = find_word(list, row + place.lane, place.word);
    }
    SB_DEVICE Word at(int step) const {
        return {__shfl_sync(full_warp, mine.bits, step), __shfl_sync(full_warp, mine.first, step)};
    }
};

// Entry of a lane whose bit is set.
SB_DEVICE int64_t entry_of(const Word& word, int lane) { return word.first + __popc(word.bits & ((1u << lane) - 1)); }

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
