// What one row of lambda = dL/dI[t, b] contributes: weight (spike form), input gradient, copies.
//
// Cost per row: nnz(x[t]) read-modify-writes of a row of dW^T (L2), lambda staying in registers, and nnz(low[t]) dot
// products with rows of W^T (L2).
#pragma once

#include "dots.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <int vectors, class Real>
SB_INLINE void scatter_tile(const EventList<Real>& input, int64_t n, Real* weight_t, int64_t row, const Real* lambda) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    Vector add[vectors];
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) add[k] = *(const Vector*)(lambda + k * lanes);
    const int64_t end = input.ptr[row + 1];
    for (int64_t e = input.ptr[row]; e < end; ++e) {
        Real* target = weight_t + int64_t(input.idx[e]) * n;
        if (input.val) {
            const Real value = input.val[e];
#pragma GCC unroll 16
            for (int k = 0; k < vectors; ++k) *(Vector*)(target + k * lanes) += value * add[k];
        } else {
#pragma GCC unroll 16
            for (int k = 0; k < vectors; ++k) *(Vector*)(target + k * lanes) += add[k];
        }
    }
}

template <class Real>
void scatter_weight(const LayerView<Real>& layer, Real* weight_t, int64_t row, const Real* lambda) {
    if (layer.input.ptr[row] == layer.input.ptr[row + 1]) return;
    for_tiles<Real>(layer.padded, [&](int64_t column, auto tile) {
        scatter_tile<decltype(tile)::count>(layer.input, layer.padded, weight_t + column, row, lambda + column);
    });
}

// dL/dx at the listed entries of the layer below: dot products with columns of W.
template <class Real>
void sample_input_gradient(const LayerView<Real>& layer, const GradientView<Real>& grads, int64_t row,
                           const Real* lambda) {
    const int64_t n = layer.padded, end = grads.low.ptr[row + 1];
    const int32_t* idx = grads.low.idx;
    for (int64_t e = grads.low.ptr[row]; e < end; e += 4) {
        const Real* rows[4];
        const int64_t count = end - e < 4 ? end - e : 4;
        for (int64_t k = 0; k < count; ++k) rows[k] = layer.weight_t + int64_t(idx[e + k]) * n;
        Real* out = grads.d_low + e;
        switch (count) {
        case 1: dots<1>(lambda, rows, n, out); break;
        case 2: dots<2>(lambda, rows, n, out); break;
        case 3: dots<3>(lambda, rows, n, out); break;
        default: dots<4>(lambda, rows, n, out); break;
        }
    }
}

// The bias is the scans' own: they have lambda in registers.
template <class Real>
void add_products(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                  ReverseScratch<Real>& scratch, int64_t b, int64_t t, const Real* lambda) {
    const int64_t n = layer.padded, row = b * layer.steps + t;
    if (grads.want_weight && !grads.trace) scatter_weight(layer, sums.weight_t, row, lambda);
    if (grads.low.ptr) sample_input_gradient(layer, grads, row, lambda);
    if (grads.d_current.data) {
        Real* out = grads.d_current.data + t * grads.d_current.stride_t + b * grads.d_current.stride_b;
        if (t >= prefetch_distance) prefetch_row(out - prefetch_distance * grads.d_current.stride_t, layer.width);
        store_row(out, lambda, layer.width);
    }
    if (grads.d_current_sum) add_row(scratch.current_sum, lambda, n);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
