// Dot products of padded rows, four at a time.
//
// Cost: one or two loads, one multiplication and one addition per vector and product, and one reduction for all four.
// Every instruction set gives the same bits: the order of summation is one, and no multiply-add is rounded once.
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

// out[k] = the sum of sum[k]'s lanes.
template <class Real>
SB_INLINE void sum_lanes(const Lanes<Real> sum[4], Quad<Real>& out) {
    Quad<Real> quad[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) fold(sum[k], quad[k]);
    add_across<Real>(quad, out);
}

#if defined(__AVX512F__)
// The same sums, four at once at every step.
SB_INLINE void sum_lanes(const Lanes<float> sum[4], Quad<float>& out) {
    typedef Lanes<float>::Vector Vector;
    const auto halves = [](Vector a, Vector b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    };
    const Vector ab = halves(sum[0].part[0], sum[1].part[0]), cd = halves(sum[2].part[0], sum[3].part[0]);
    const Vector quads = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                         __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    const Vector pairs =
        quads + __builtin_shufflevector(quads, quads, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const Vector all =
        pairs + __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    out = __builtin_shufflevector(all, all, 0, 4, 8, 12);
}
#endif

// out[k] = a[k] times b[k], rows of `groups` times 64 bytes.
template <int groups, class Real>
SB_INLINE void four_dots(const Real* const a[4], const Real* const b[4], Quad<Real>& out) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes, parts = Lanes<Real>::parts;
    Lanes<Real> sum[4] = {};
#pragma GCC unroll 16
    for (int v = 0; v < groups * parts; ++v)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k)
            sum[k].part[v % parts] += *(const Vector*)(a[k] + v * lanes) * *(const Vector*)(b[k] + v * lanes);
    sum_lanes(sum, out);
}

// out[k] = a times b[k], rows of n entries.
template <int count, class Real>
SB_INLINE void row_dots(const Real* a, const Real* const b[count], int64_t n, Real* out) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes, parts = Lanes<Real>::parts;
    Lanes<Real> sum[4] = {};
    for (int64_t j = 0; j < n; j += parts * lanes)
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
            const Vector x = *(const Vector*)(a + j + p * lanes);
#pragma GCC unroll 4
            for (int k = 0; k < count; ++k) sum[k].part[p] += x * *(const Vector*)(b[k] + j + p * lanes);
        }
    Quad<Real> all;
    sum_lanes(sum, all);
    __builtin_memcpy(out, &all, count * sizeof(Real));
}

// body(Vectors<groups>) for rows of n entries, 64 bytes times groups; groups is 0 where that is more than 16 vectors.
template <class Real, int groups = 16 / Lanes<Real>::parts, class Body>
SB_INLINE void with_groups(int64_t n, const Body& body) {
    if constexpr (groups > 0) {
        if (n == groups * Lanes<Real>::count)
            body(Vectors<groups>());
        else
            with_groups<Real, groups - 1>(n, body);
    } else {
        body(Vectors<0>());
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
