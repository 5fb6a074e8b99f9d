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

template <class Real>
using Quad = typename Pack<Real>::quad;

// The lower half of the lanes plus the upper half, down to four. By reference: not every instruction set has a register
// to return four doubles in.
template <class Real>
SB_INLINE void fold(const Lanes<Real>& sum, Quad<Real>& out) {
    Quad<Real> quad[64 / sizeof(Quad<Real>)];
    __builtin_memcpy(quad, &sum, sizeof(sum));
    if constexpr (Lanes<Real>::count == 16) {
        quad[0] += quad[2];
        quad[1] += quad[3];
    }
    out = quad[0] + quad[1];
}

// The sums of four quads, lane k that of the k-th: (0 + 2) + (1 + 3) of each.
template <class Real>
SB_INLINE void add_across(const Quad<Real> quad[4], Quad<Real>& out) {
    Quad<Real> pair[2];
    for (int k = 0; k < 2; ++k)
        pair[k] = __builtin_shufflevector(quad[2 * k], quad[2 * k + 1], 0, 1, 4, 5) +
                  __builtin_shufflevector(quad[2 * k], quad[2 * k + 1], 2, 3, 6, 7);
    out = __builtin_shufflevector(pair[0], pair[1], 0, 2, 4, 6) + __builtin_shufflevector(pair[0], pair[1], 1, 3, 5, 7);
}

template <int count, class Real>
SB_INLINE void dots(const Real* a, const Real* const rows[count], int64_t n, Real* out) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes, parts = Lanes<Real>::parts;
    Lanes<Real> sum[4] = {};
    for (int64_t j = 0; j < n; j += parts * lanes)
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
            const Vector x = *(const Vector*)(a + j + p * lanes);
#pragma GCC unroll 4
            for (int k = 0; k < count; ++k) sum[k].part[p] += x * *(const Vector*)(rows[k] + j + p * lanes);
        }
    Quad<Real> quad[4], all;
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) fold(sum[k], quad[k]);
    add_across<Real>(quad, all);
    __builtin_memcpy(out, &all, count * sizeof(Real));
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
