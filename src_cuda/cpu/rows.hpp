// Row primitives: loops over the neurons of one time step, all in L1.
//
// Cost per padded row of n entries: a few loads, one store and the arithmetic per vector.
#pragma once

#include "../common/portable.hpp"
#include "arguments.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// 64 bytes of lanes whatever the instruction set, so that a reduction has the same order everywhere.
template <class Real>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
    static constexpr int count = 16;
};
template <>
struct Lanes<double> {
    typedef double type __attribute__((vector_size(64), aligned(8), may_alias));
    static constexpr int count = 8;
};

template <class Real>
SB_INLINE void fill_row(Real* SB_RESTRICT row, int64_t n, Real value) {
    for (int64_t j = 0; j < n; ++j) row[j] = value;
}

// Copies width entries into a padded row; the tail becomes zero.
template <class Real>
SB_INLINE void load_row(Real* SB_RESTRICT row, const Real* SB_RESTRICT source, int64_t width, int64_t padded) {
    __builtin_memcpy(row, source, size_t(width) * sizeof(Real));
    for (int64_t j = width; j < padded; ++j) row[j] = Real(0);
}

template <class Real>
SB_INLINE void store_row(Real* SB_RESTRICT target, const Real* SB_RESTRICT row, int64_t width) {
    __builtin_memcpy(target, row, size_t(width) * sizeof(Real));
}

template <class Real>
SB_INLINE void add_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += row[j];
}

template <class Real>
SB_INLINE void add_scaled_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, Real scale, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += scale * row[j];
}

// sum (+)= a + b + c + d, in the order of four additions one by one.
template <class Real>
SB_INLINE void add4(Real* SB_RESTRICT sum, const Real* SB_RESTRICT a, const Real* SB_RESTRICT b,
                    const Real* SB_RESTRICT c, const Real* SB_RESTRICT d, int64_t n, bool first) {
    if (first)
        for (int64_t j = 0; j < n; ++j) sum[j] = ((a[j] + b[j]) + c[j]) + d[j];
    else
        for (int64_t j = 0; j < n; ++j) sum[j] = (((sum[j] + a[j]) + b[j]) + c[j]) + d[j];
}

// I = W x + b of one row of events. Four rows of W^T per pass: one load and store of the sum for four adds.
template <class Real>
SB_INLINE void gather_current(Real* SB_RESTRICT sum, const LayerView<Real>& layer, int64_t row) {
    const int64_t n = layer.padded;
    const int32_t* idx = layer.input.idx;
    const Real* val = layer.input.val;
    const int64_t end = layer.input.ptr[row + 1];
    int64_t e = layer.input.ptr[row];
    const auto weight = [&](int64_t event) { return layer.weight_t + int64_t(idx[event]) * n; };
    if (val || end - e < 4) {
        fill_row(sum, n, Real(0));
    } else {
        add4(sum, weight(e), weight(e + 1), weight(e + 2), weight(e + 3), n, true);
        e += 4;
    }
    if (val)
        for (; e < end; ++e) add_scaled_row(sum, weight(e), val[e], n);
    for (; e + 4 <= end; e += 4) add4(sum, weight(e), weight(e + 1), weight(e + 2), weight(e + 3), n, false);
    for (; e < end; ++e) add_row(sum, weight(e), n);
    if (layer.bias) add_row(sum, layer.bias, n);
}

// Adds the two halves of a vector twice as long as Half, which need not be aligned.
template <class Half>
SB_INLINE void fold(const void* whole, Half& sum) {
    Half high;
    __builtin_memcpy(&sum, whole, sizeof(Half));
    __builtin_memcpy(&high, (const char*)whole + sizeof(Half), sizeof(Half));
    sum += high;
}

// Dot products of one padded row with four others. The order of summation is the same for every instruction set and
// does not depend on which of the four a row is.
template <class Real>
SB_INLINE void dot4(const Real* a, const Real* const rows[4], int64_t n, Real out[4]) {
    typedef typename Lanes<Real>::type Vector;
    typedef Real Quad __attribute__((vector_size(4 * sizeof(Real))));
    constexpr int lanes = Lanes<Real>::count;
    Vector sum[4] = {};
    for (int64_t j = 0; j < n; j += lanes) {
        const Vector x = *(const Vector*)(a + j);
        for (int k = 0; k < 4; ++k) sum[k] += x * *(const Vector*)(rows[k] + j);
    }
    for (int k = 0; k < 4; ++k) {
        Quad quad;
        if constexpr (lanes == 16) {
            typedef Real Half __attribute__((vector_size(8 * sizeof(Real))));
            Half half;
            fold(&sum[k], half);
            fold(&half, quad);
        } else {
            fold(&sum[k], quad);
        }
        out[k] = (quad[0] + quad[2]) + (quad[1] + quad[3]);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
