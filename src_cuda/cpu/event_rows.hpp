// Which row each event of a list lies in, so that one loop runs over the events of many rows. Rows have a few events
// each, never the same number: a loop per row would mispredict its end nearly every time.
//
// Cost per row: one store of 32 bytes for every 16 events, at least one.
#pragma once

#include "../common/portable.hpp"
#include "arguments.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// of[e - ptr[0]] = r for the events e of row r, [ptr[r], ptr[r + 1]). Whole vectors are written, over whose rest the
// next row writes: `of` has room for one more vector.
SB_INLINE void spread_rows(const int64_t* ptr, int64_t rows, uint16_t* of) {
    typedef uint16_t Group __attribute__((vector_size(2 * event_row_group), aligned(2), may_alias));
    for (int64_t r = 0; r < rows; ++r) {
        uint16_t* at = of + (ptr[r] - ptr[0]);
        uint16_t* const end = of + (ptr[r + 1] - ptr[0]);
        const Group row = Group{} + uint16_t(r);
        do {
            *(Group*)at = row;
            at += event_row_group;
        } while (at < end);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
