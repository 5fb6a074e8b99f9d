// A matrix product C = A B in two steps: B is packed once, then any rows of A are multiplied by it.
#pragma once

#include <stdint.h>

namespace sparse_backend {

// One way to do it: dense_product.hpp, tile_product.hpp.
template <class Real>
struct Product {
    // Numbers that B [inner, columns padded to 16] takes when packed.
    int64_t (*packed_size)(int64_t inner, int64_t columns);
    // Packs `columns` of B [inner, width] from `first`, a multiple of 64, on: zero from width on to padded columns.
    void (*pack)(const Real* b, int64_t b_stride, int64_t inner, int64_t width, int64_t first, int64_t columns,
                 Real* packed);
    // C [rows, columns] = A [rows, inner] B. past_cache: C is not read again soon, and its rows are aligned to vectors.
    void (*multiply)(const Real* a, int64_t a_stride, int64_t rows, int64_t inner, const Real* packed, int64_t columns,
                     Real* c, int64_t c_stride, bool past_cache);
};

// C = start + A W^T, with the sum over k cut as BLAS libraries cut it: every `block` products are a chain from zero,
// and the chains are added up in order. So it can be another library's product to the last bit.
template <class Real>
struct BlockedProduct {
    // Packs W [width, inner]: zero from width on to padded columns.
    void (*pack)(const Real* w, int64_t inner, int64_t width, int64_t columns, Real* packed);
    // start: a row of padded columns, null for zeros.
    void (*multiply)(const Real* a, int64_t a_stride, int64_t rows, int64_t inner, int64_t block, const Real* packed,
                     int64_t columns, const Real* start, Real* c, int64_t c_stride);
};

}  // namespace sparse_backend
