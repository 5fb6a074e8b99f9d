// Blocked transposition, target[c, r] = source[r, c]; target rows are zero from `rows` up to `filled`.
//
// Cost: one read and one write; blocks of 32 x 32 keep both sides within L1.
#pragma once

#include "../common/portable.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
void transpose(const Real* source, int64_t source_stride, int64_t rows, int64_t columns, Real* target,
               int64_t target_stride, int64_t filled) {
    constexpr int64_t block = 32;
    for (int64_t c0 = 0; c0 < columns; c0 += block) {
        const int64_t c1 = c0 + block < columns ? c0 + block : columns;
        for (int64_t r0 = 0; r0 < rows; r0 += block) {
            const int64_t r1 = r0 + block < rows ? r0 + block : rows;
            for (int64_t c = c0; c < c1; ++c)
                for (int64_t r = r0; r < r1; ++r) target[c * target_stride + r] = source[r * source_stride + c];
        }
        for (int64_t c = c0; c < c1; ++c)
            for (int64_t r = rows; r < filled; ++r) target[c * target_stride + r] = Real(0);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
