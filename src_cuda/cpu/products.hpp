// What rows of lambda = dL/dI[t, b] contribute: weight (spike form), input gradient, copies.
//
// Cost: dW one load and one addition per vector of a row per input event, and one read-modify-write of a row of dW^T
// per input that has events in the block (L2); the input gradient nnz(low[t]) dot products with rows of W^T per row
// (L2), or a dense product (dense_product.hpp).
#pragma once

#include "dense_product.hpp"
#include "dots.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// The events of rows [row, row + rows) by input, in the order of the rows.
template <class Real>
void sort_by_input(const EventList<Real>& input, int64_t inputs, int64_t row, int64_t rows,
                   const InputBuckets<Real>& buckets) {
    int32_t* begin = buckets.begin;
    for (int64_t i = 0; i < inputs + 2; ++i) begin[i] = 0;
    for (int64_t e = input.ptr[row]; e < input.ptr[row + rows]; ++e) ++begin[input.idx[e] + 2];
    for (int64_t i = 2; i < inputs + 2; ++i) begin[i] += begin[i - 1];
    // begin[i + 1] runs from the start of bucket i to its end.
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t e = input.ptr[row + r]; e < input.ptr[row + r + 1]; ++e) {
            const int32_t at = begin[input.idx[e] + 1]++;
            buckets.row[at] = uint16_t(r);
            if (input.val) buckets.val[at] = input.val[e];
        }
}

// A tile of dW^T, each of its rows in registers while the rows of lambda are added.
template <int vectors, bool valued, class Real>
SB_INLINE void add_bucket_tile(const InputBuckets<Real>& buckets, int64_t inputs, const Real* lambda, Real* weight_t,
                               int64_t n) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    for (int64_t i = 0; i < inputs; ++i) {
        const int32_t end = buckets.begin[i + 1];
        int32_t e = buckets.begin[i];
        if (e == end) continue;
        Real* target = whole(weight_t + i * n);
        Vector sum[vectors];
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) sum[k] = *(const Vector*)(target + k * lanes);
        for (; e < end; ++e) {
            const Real* row = whole(lambda + int64_t(buckets.row[e]) * n);
#pragma GCC unroll 16
            for (int k = 0; k < vectors; ++k) {
                const Vector add = *(const Vector*)(row + k * lanes);
                sum[k] += valued ? buckets.val[e] * add : add;
            }
        }
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) *(Vector*)(target + k * lanes) = sum[k];
    }
}

template <class Real>
void add_weight(const LayerView<Real>& layer, const InputBuckets<Real>& buckets, int64_t row, int64_t rows,
                const Real* lambda, Real* weight_t) {
    const int64_t n = layer.padded;
    if (layer.input.ptr[row] == layer.input.ptr[row + rows]) return;
    sort_by_input(layer.input, layer.inputs, row, rows, buckets);
    for_tiles<Real>(n, [&](int64_t column, auto tile) {
        constexpr int vectors = decltype(tile)::count;
        if (layer.input.val)
            add_bucket_tile<vectors, true>(buckets, layer.inputs, lambda + column, weight_t + column, n);
        else
            add_bucket_tile<vectors, false>(buckets, layer.inputs, lambda + column, weight_t + column, n);
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
        for (int64_t k = 0; k < count; ++k) rows[k] = layer.weight_t + int64_t(idx[e + k]) * layer.weight_stride;
        Real* out = grads.d_low + e;
        switch (count) {
        case 1: dots<1>(lambda, rows, n, out); break;
        case 2: dots<2>(lambda, rows, n, out); break;
        case 3: dots<3>(lambda, rows, n, out); break;
        default: dots<4>(lambda, rows, n, out); break;
        }
    }
}

// The products of rows [row, row + rows), whose lambda scratch holds. The bias is the scans' own: they have lambda in
// registers.
template <class Real>
void add_products(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                  const ReverseScratch<Real>& scratch, int64_t row, int64_t rows) {
    constexpr int64_t block = InputBuckets<Real>::block_rows;
    const int64_t n = layer.padded;
    for (int64_t r = 0; grads.want_weight && !grads.trace && r < rows; r += block)
        add_weight(layer, scratch.buckets, row + r, rows - r < block ? rows - r : block, scratch.lambda + r * n,
                   sums.weight_t);
    const InputProduct<Real>& input = grads.input_product;
    if (input.out)
        multiply(scratch.lambda, n, rows, layer.width, input.panels, input.columns, input.out + row * input.columns,
                 input.columns, input.past_cache);
    if (!grads.low.ptr && !grads.d_current.data && !grads.d_current_sum) return;
    for (int64_t r = 0; r < rows; ++r) {
        const Real* lambda = scratch.lambda + r * n;
        const int64_t b = (row + r) / layer.steps, t = (row + r) % layer.steps;
        if (grads.low.ptr) sample_input_gradient(layer, grads, row + r, lambda);
        if (grads.d_current.data)
            store_row(grads.d_current.data + t * grads.d_current.stride_t + b * grads.d_current.stride_b, lambda,
                      layer.width);
        if (grads.d_current_sum) add_row(grads.d_current_sum + b * layer.columns, lambda, layer.width);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
