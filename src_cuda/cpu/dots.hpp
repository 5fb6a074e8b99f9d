// Dot products of one padded row with up to four others.
//
// Cost: one load, one multiplication and one addition per vector and row, and one reduction for all of them. The order
// of summation is the same for every instruction set and does not depend on how many rows there are.
#pragma once

#include "packs.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Sums of 64 bytes of lanes, in vectors of the machine's width.
template <class Real>
struct Lanes {
    typedef typename Pack<Real>::type Vector;
    static constexpr int parts = 64 / vector_bytes, count = 64 / int(sizeof(Real));
    Vector part[parts];
};

// The lower half of the lanes plus the upper half, down to four.
template <class Real>
SB_INLINE void fold(const Lanes<Real>& sum, Real out[4]) {
    typedef Real Quad __attribute__((vector_size(4 * sizeof(Real))));
    typedef Real Eight __attribute__((vector_size(8 * sizeof(Real))));
    Quad quad[2];
    if constexpr (Lanes<Real>::count == 16) {
        Eight half[2];
        __builtin_memcpy(half, &sum, sizeof(half));
        half[0] += half[1];
        __builtin_memcpy(quad, half, sizeof(quad));
    } else {
        __builtin_memcpy(quad, &sum, sizeof(quad));
    }
    quad[0] += quad[1];
    __builtin_memcpy(out, quad, sizeof(Quad));
}

template <int count, class Real>
SB_INLINE void dots(const Real* a, const Real* const rows[count], int64_t n, Real* out) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes, parts = Lanes<Real>::parts;
    Lanes<Real> sum[count] = {};
    for (int64_t j = 0; j < n; j += parts * lanes)
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
            const Vector x = *(const Vector*)(a + j + p * lanes);
#pragma GCC unroll 4
            for (int k = 0; k < count; ++k) sum[k].part[p] += x * *(const Vector*)(rows[k] + j + p * lanes);
        }
#pragma GCC unroll 4
    for (int k = 0; k < count; ++k) {
        Real quad[4];
        fold(sum[k], quad);
        out[k] = (quad[0] + quad[2]) + (quad[1] + quad[3]);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
