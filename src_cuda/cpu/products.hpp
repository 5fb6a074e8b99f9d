// What rows of lambda = dL/dI[t, b] contribute: weight (spike form), input gradient, copies.
//
// Cost: dW one load and one addition per vector of a row per input event, and one read-modify-write of a row of dW^T
// per event in narrow layers (L1), else per input that has events in the block (L2); the input gradient nnz(low[t]) dot
// products with rows of W^T per row (L2), or a dense product (product.hpp).
#pragma once

#include "dots.hpp"
#include "event_rows.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// The events of rows [row, row + rows) by input, in the order of the rows.
template <class Real>
void sort_by_input(const EventList<Real>& input, int64_t inputs, int64_t row, int64_t rows, uint16_t* event_row,
                   const InputBuckets<Real>& buckets) {
    int32_t* begin = buckets.begin;
    const int64_t first = input.ptr[row], count = input.ptr[row + rows] - first;
    const int32_t* idx = input.idx + first;
    for (int64_t i = 0; i < inputs + 2; ++i) begin[i] = 0;
    for (int64_t e = 0; e < count; ++e) ++begin[idx[e] + 2];
    for (int64_t i = 2; i < inputs + 2; ++i) begin[i] += begin[i - 1];
    spread_rows(input.ptr + row, rows, event_row);
    // begin[i + 1] runs from the start of bucket i to its end.
    for (int64_t e = 0; e < count; ++e) {
        const int32_t at = begin[idx[e] + 1]++;
        buckets.row[at] = event_row[e];
        if (input.val) buckets.val[at] = input.val[first + e];
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

// The weight's sums from rows [row, row + rows), by input.
template <class Real>
void add_sorted(const LayerView<Real>& layer, const ReverseScratch<Real>& scratch, int64_t row, int64_t rows,
                const Real* lambda, Real* weight_t) {
    const int64_t n = layer.padded;
    const InputBuckets<Real>& buckets = scratch.buckets;
    if (layer.input.ptr[row] == layer.input.ptr[row + rows]) return;
    sort_by_input(layer.input, layer.inputs, row, rows, scratch.event_row, buckets);
    for_tiles<Real>(n, [&](int64_t column, auto tile) {
        constexpr int vectors = decltype(tile)::count;
        if (layer.input.val)
            add_bucket_tile<vectors, true>(buckets, layer.inputs, lambda + column, weight_t + column, n);
        else
            add_bucket_tile<vectors, false>(buckets, layer.inputs, lambda + column, weight_t + column, n);
    });
}

template <int vectors, bool valued, class Real>
SB_INLINE void add_event_tile(const EventList<Real>& input, int64_t first, int64_t end, const uint16_t* event_row,
                              const Real* lambda, Real* weight_t, int64_t n) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    for (int64_t e = first; e < end; ++e) {
        const Real* from = lambda + int64_t(event_row[e - first]) * n;
        Real* to = weight_t + int64_t(input.idx[e]) * n;
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) {
            const Vector add = *(const Vector*)(from + k * lanes);
            *(Vector*)(to + k * lanes) += valued ? input.val[e] * add : add;
        }
    }
}

// As add_sorted, in the order of the events: where dW^T is in L1, sorting costs more than it saves.
template <class Real>
void add_in_order(const LayerView<Real>& layer, const ReverseScratch<Real>& scratch, int64_t row, int64_t rows,
                  const Real* lambda, Real* weight_t) {
    const int64_t n = layer.padded, first = layer.input.ptr[row], end = layer.input.ptr[row + rows];
    spread_rows(layer.input.ptr + row, rows, scratch.event_row);
    for_tiles<Real>(n, [&](int64_t column, auto tile) {
        constexpr int vectors = decltype(tile)::count;
        if (layer.input.val)
            add_event_tile<vectors, true>(layer.input, first, end, scratch.event_row, lambda + column,
                                          weight_t + column, n);
        else
            add_event_tile<vectors, false>(layer.input, first, end, scratch.event_row, lambda + column,
                                           weight_t + column, n);
    });
}

// Entries of the layer below, and where the factors of their dot products lie.
template <class Real>
struct Sampled {
    const int32_t* idx;
    const uint16_t* event_row;
    const Real *lambda, *weight_t;
    int64_t n, weight_stride;
};

template <int groups, class Real>
SB_INLINE void sample_four(const Sampled<Real>& at, const int64_t entry[4], Quad<Real>& out) {
    const Real *a[4], *b[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
        a[k] = whole(at.lambda + int64_t(at.event_row[entry[k]]) * at.n);
        b[k] = whole(at.weight_t + int64_t(at.idx[entry[k]]) * at.weight_stride);
    }
    four_dots<groups>(a, b, out);
}

// Any four entries at a time, whatever rows they are of. From the last to the first, as the pieces follow each other:
// so the lists are read in one direction.
template <int groups, class Real>
void sample_entries(const Sampled<Real>& shared, int64_t count, Real* out) {
    const Sampled<Real> at = shared;
    Quad<Real> dots;
    int64_t left = count;
    for (; left >= 4; left -= 4) {
        const int64_t four[4] = {left - 4, left - 3, left - 2, left - 1};
        sample_four<groups>(at, four, dots);
        __builtin_memcpy(out + left - 4, &dots, sizeof(dots));
    }
    if (left == 0) return;
    const int64_t rest[4] = {0, left / 2, left - 1, left - 1};
    sample_four<groups>(at, rest, dots);
    __builtin_memcpy(out, &dots, left * sizeof(Real));
}

// Entries of one row, which share the loads of lambda: of many vectors these cost more than the mispredicted end.
template <class Real>
void sample_row(const Sampled<Real>& at, const Real* lambda, int64_t begin, int64_t end, Real* out) {
    for (int64_t e = begin; e < end; e += 4) {
        const Real* rows[4];
        const int64_t count = end - e < 4 ? end - e : 4;
        for (int64_t k = 0; k < count; ++k) rows[k] = at.weight_t + int64_t(at.idx[e + k]) * at.weight_stride;
        switch (count) {
        case 1: row_dots<1>(lambda, rows, at.n, out + e); break;
        case 2: row_dots<2>(lambda, rows, at.n, out + e); break;
        case 3: row_dots<3>(lambda, rows, at.n, out + e); break;
        default: row_dots<4>(lambda, rows, at.n, out + e); break;
        }
    }
}

// dL/dx at the listed entries of the layer below: dot products with columns of W.
template <class Real>
void sample_input_gradient(const LayerView<Real>& layer, const GradientView<Real>& grads, int64_t row, int64_t rows,
                           const Real* lambda, uint16_t* event_row) {
    const int64_t *ptr = grads.low.ptr + row, first = ptr[0], count = ptr[rows] - first;
    Real* out = grads.d_low + first;
    const Sampled<Real> at = {grads.low.idx + first, event_row,    lambda,
                              layer.weight_t,        layer.padded, layer.weight_stride};
    with_groups<Real>(layer.padded, [&](auto tile) {
        constexpr int groups = decltype(tile)::count;
        if constexpr (groups > 0) {
            spread_rows(ptr, rows, event_row);
            sample_entries<groups>(at, count, out);
        } else {
            for (int64_t r = 0; r < rows; ++r)
                sample_row(at, lambda + r * layer.padded, ptr[r] - first, ptr[r + 1] - first, out);
        }
    });
}

// The products of rows [row, row + rows) of one batch element, whose lambda is in L1. Sums over time are the scans'
// own: they have lambda in registers.
template <class Real>
void row_products(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                  const ReverseScratch<Real>& scratch, int64_t b, int64_t t, int64_t rows, const Real* lambda) {
    const int64_t row = b * layer.steps + t, n = layer.padded;
    if (grads.want_weight && !grads.trace && !scratch.buckets.begin)
        add_in_order(layer, scratch, row, rows, lambda, sums.weight_t);
    if (grads.low.ptr) sample_input_gradient(layer, grads, row, rows, lambda, scratch.event_row);
    if (grads.d_current.data)
        for (int64_t r = 0; r < rows; ++r)
            store_row(grads.d_current.data + (t + r) * grads.d_current.stride_t + b * grads.d_current.stride_b,
                      lambda + r * n, layer.width);
}

// The products of rows [row, row + rows) that gain from having many of them; scratch holds lambda.
template <class Real>
void chunk_products(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                    const ReverseScratch<Real>& scratch, int64_t row, int64_t rows) {
    constexpr int64_t block = event_block_rows;
    const int64_t n = layer.padded;
    for (int64_t r = 0; scratch.buckets.begin && r < rows; r += block)
        add_sorted(layer, scratch, row + r, rows - r < block ? rows - r : block, scratch.lambda + r * n, sums.weight_t);
    const InputProduct<Real>& input = grads.input_product;
    if (input.out)
        input.product->multiply(scratch.lambda, n, rows, layer.width, input.weight, input.columns,
                                input.out + row * input.columns, input.columns, input.past_cache);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
