// Row primitives: loops over the neurons of one time step, all in L1.
//
// Cost per padded row of n entries: a few loads, one store and the arithmetic per vector.
#pragma once

#include "../common/portable.hpp"
#include "arguments.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
SB_INLINE void fill_row(Real* SB_RESTRICT row, int64_t n, Real value) {
    for (int64_t j = 0; j < n; ++j) row[j] = value;
}

// Asks for a row that is needed a few steps on. Consecutive steps of one batch element lie far apart in a [T, B, N]
// tensor, where no hardware prefetcher looks.
template <class Real>
SB_INLINE void prefetch_row(const Real* row, int64_t width) {
    for (int64_t j = 0; j < width; j += 64 / int64_t(sizeof(Real))) __builtin_prefetch(row + j, 0, 2);
}

template <class Real>
SB_INLINE void prefetch_to_write(const Real* row, int64_t width) {
    for (int64_t j = 0; j < width; j += 64 / int64_t(sizeof(Real))) __builtin_prefetch(row + j, 1, 3);
}

// How many steps ahead: far enough for main memory, near enough to stay in cache.
constexpr int64_t prefetch_distance = 4;

// Chunks of a size known to the compiler, the last two overlapping: a call to the C library costs more than a short
// row.
template <int size, class Real>
SB_INLINE void store_chunks(Real* SB_RESTRICT target, const Real* SB_RESTRICT row, int64_t width) {
    if (width >= size) {
        for (int64_t j = 0; j + size < width; j += size) __builtin_memcpy(target + j, row + j, size * sizeof(Real));
        __builtin_memcpy(target + width - size, row + width - size, size * sizeof(Real));
    } else if constexpr (size > 1) {
        store_chunks<size / 2>(target, row, width);
    }
}

template <class Real>
SB_INLINE void store_row(Real* SB_RESTRICT target, const Real* SB_RESTRICT row, int64_t width) {
    store_chunks<16>(target, row, width);
}

// Copies width entries into a padded row; the tail becomes zero.
template <class Real>
SB_INLINE void load_row(Real* SB_RESTRICT row, const Real* SB_RESTRICT source, int64_t width, int64_t padded) {
    store_row(row, source, width);
    for (int64_t j = width; j < padded; ++j) row[j] = Real(0);
}

template <class Real>
SB_INLINE void add_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += row[j];
}

template <class Real>
SB_INLINE void add_scaled_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, Real scale, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += scale * row[j];
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
