// Blocked transposition, target[c, r] = source[r, c]; target rows are zero from `rows` up to `filled`.
//
// Cost: one read and one write, four entries at a time; blocks of 32 x 32 keep both sides within L1.
#pragma once

#include "../common/portable.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// A square of four by four, in registers.
template <class Real>
SB_INLINE void transpose_square(const Real* source, int64_t source_stride, Real* target, int64_t target_stride) {
    typedef Real Four __attribute__((vector_size(4 * sizeof(Real)), aligned(sizeof(Real)), may_alias));
    const Four a = *(const Four*)source, b = *(const Four*)(source + source_stride);
    const Four c = *(const Four*)(source + 2 * source_stride), d = *(const Four*)(source + 3 * source_stride);
    const Four ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
    const Four bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    *(Four*)target = __builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5);
    *(Four*)(target + target_stride) = __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7);
    *(Four*)(target + 2 * target_stride) = __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5);
    *(Four*)(target + 3 * target_stride) = __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7);
}

template <class Real>
SB_INLINE void transpose_block(const Real* source, int64_t source_stride, int64_t rows, int64_t columns, Real* target,
                               int64_t target_stride) {
    const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int64_t c = 0; c < whole_columns; c += 4)
        for (int64_t r = 0; r < whole_rows; r += 4)
            transpose_square(source + r * source_stride + c, source_stride, target + c * target_stride + r,
                             target_stride);
    for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
            target[c * target_stride + r] = source[r * source_stride + c];
}

template <class Real>
void transpose(const Real* source, int64_t source_stride, int64_t rows, int64_t columns, Real* target,
               int64_t target_stride, int64_t filled) {
    constexpr int64_t block = 32;
    for (int64_t c0 = 0; c0 < columns; c0 += block) {
        const int64_t c1 = c0 + block < columns ? c0 + block : columns;
        for (int64_t r0 = 0; r0 < rows; r0 += block)
            transpose_block(source + r0 * source_stride + c0, source_stride, r0 + block < rows ? block : rows - r0,
                            c1 - c0, target + c0 * target_stride + r0, target_stride);
        for (int64_t c = c0; c < c1; ++c)
            for (int64_t r = rows; r < filled; ++r) target[c * target_stride + r] = Real(0);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
