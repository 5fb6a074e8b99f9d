// The synaptic input of one (b, t) row: I = W x + b from events, or a row of a dense current.
//
// Cost per event: one load and one add per vector of a row of W^T (L2), the sum staying in registers up to 256 neurons
// (AVX-512). The order of the additions is that of the events, then the bias, whatever the instruction set.
#pragma once

#include "packs.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <bool valued, int vectors, class Real>
SB_INLINE void gather_tile(Real* sum, const LayerView<Real>& layer, int64_t begin, int64_t end, int64_t column) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    const int64_t n = layer.weight_stride;
    const int32_t* idx = layer.input.idx;
    const Real* from = layer.weight_t + column;
    Vector total[vectors] = {};
    for (int64_t e = begin; e < end; ++e) {
        const Real* weight = from + int64_t(idx[e]) * n;
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) {
            const Vector w = *(const Vector*)(weight + k * lanes);
            if constexpr (valued)
                total[k] += layer.input.val[e] * w;
            else
                total[k] += w;
        }
    }
    if (layer.bias)
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) total[k] += *(const Vector*)(layer.bias + column + k * lanes);
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) *(Vector*)(sum + column + k * lanes) = total[k];
}

// The padded neurons of one batch element.
template <class Real>
SB_INLINE int64_t element_width(const LayerView<Real>& layer) {
    return layer.together == 1 ? layer.padded : layer.weight_stride;
}

// Adds up the rows of W^T of events begin .. end - 1.
template <class Real>
using Feed = void (*)(Real* sum, const LayerView<Real>& layer, int64_t begin, int64_t end);

template <bool valued, int vectors, class Real>
void feed_tile(Real* sum, const LayerView<Real>& layer, int64_t begin, int64_t end) {
    gather_tile<valued, vectors>(sum, layer, begin, end, 0);
}

template <bool valued, class Real>
void feed_tiles(Real* sum, const LayerView<Real>& layer, int64_t begin, int64_t end) {
    for_tiles<Real>(element_width(layer), [&](int64_t column, auto tile) {
        gather_tile<valued, decltype(tile)::count>(sum, layer, begin, end, column);
    });
}

template <bool valued, class Real>
Feed<Real> find_feed(const LayerView<Real>& layer) {
    Feed<Real> feed = feed_tiles<valued, Real>;
    if (element_width(layer) <= tile_vectors * Pack<Real>::lanes)
        for_tiles<Real>(element_width(layer),
                        [&](int64_t, auto tile) { feed = feed_tile<valued, decltype(tile)::count, Real>; });
    return feed;
}

// The function for the layer's width and events; null where the input is a current.
template <class Real>
Feed<Real> find_feed(const LayerView<Real>& layer) {
    if (layer.current.data) return nullptr;
    return layer.input.val ? find_feed<true>(layer) : find_feed<false>(layer);
}

// The synaptic input of the row that begins with (b, t), padded. A constant current is read at the first call only.
template <class Real>
SB_INLINE void input_row(const LayerView<Real>& layer, Feed<Real> feed, int64_t b, int64_t t, bool first,
                         Real* current) {
    if (feed) {
        // In turn: the padding of an element lies where the next one's neurons will.
        for (int64_t e = 0; e < layer.together; ++e) {
            const int64_t* ptr = layer.input.ptr + (b + e) * layer.steps + t;
            feed(current + e * layer.columns, layer, ptr[0], ptr[1]);
        }
    } else if (first || layer.current.stride_t != 0) {
        const Real* source = layer.current.data + t * layer.current.stride_t + b * layer.current.stride_b;
        if (t + prefetch_distance < layer.steps)
            prefetch_row(source + prefetch_distance * layer.current.stride_t, layer.width);
        load_row(current, source, layer.width, layer.padded);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
