// What one row of lambda = dL/dI[t, b] contributes: bias, weight (spike form), input gradient, copies.
//
// Cost per row: nnz(x[t]) read-modify-writes of a row of dW^T (L2), nnz(low[t]) dot products with rows of
// W^T, and a few passes over the row itself.
#pragma once

#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
SB_INLINE void scatter_weight(const LayerView<Real>& layer, Real* weight_t, int64_t row, const Real* lambda) {
    const int64_t n = layer.padded, end = layer.input.ptr[row + 1];
    const int32_t* idx = layer.input.idx;
    const Real* val = layer.input.val;
    for (int64_t e = layer.input.ptr[row]; e < end; ++e) {
        Real* target = weight_t + int64_t(idx[e]) * n;
        if (val)
            add_scaled_row(target, lambda, val[e], n);
        else
            add_row(target, lambda, n);
    }
}

// dL/dx at the listed entries of the layer below: dot products with columns of W.
template <class Real>
SB_INLINE void sample_input_gradient(const LayerView<Real>& layer, const GradientView<Real>& grads, int64_t row,
                                     const Real* lambda) {
    const int64_t n = layer.padded, end = grads.low.ptr[row + 1];
    const int32_t* idx = grads.low.idx;
    for (int64_t e = grads.low.ptr[row]; e < end; e += 4) {
        const Real* rows[4];
        Real values[4];
        // The last group repeats its last row.
        for (int64_t k = 0; k < 4; ++k) rows[k] = layer.weight_t + int64_t(idx[e + k < end ? e + k : end - 1]) * n;
        dot4(lambda, rows, n, values);
        for (int64_t k = 0; k < 4 && e + k < end; ++k) grads.d_low[e + k] = values[k];
    }
}

template <class Real>
void add_products(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                  ReverseScratch<Real>& scratch, int64_t b, int64_t t, const Real* lambda) {
    const int64_t n = layer.padded, row = b * layer.steps + t;
    if (grads.want_bias) add_row(sums.bias, lambda, n);
    if (grads.want_weight && !grads.trace) scatter_weight(layer, sums.weight_t, row, lambda);
    if (grads.low.ptr) sample_input_gradient(layer, grads, row, lambda);
    if (grads.d_current.data)
        store_row(grads.d_current.data + t * grads.d_current.stride_t + b * grads.d_current.stride_b, lambda,
                  layer.width);
    if (grads.d_current_sum) add_row(scratch.current_sum, lambda, n);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
