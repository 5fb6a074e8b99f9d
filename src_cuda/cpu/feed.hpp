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
    const int64_t n = layer.padded;
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

template <class Real>
void gather_current(Real* sum, const LayerView<Real>& layer, int64_t row) {
    const int64_t begin = layer.input.ptr[row], end = layer.input.ptr[row + 1];
    for_tiles<Real>(layer.padded, [&](int64_t column, auto tile) {
        constexpr int vectors = decltype(tile)::count;
        if (layer.input.val)
            gather_tile<true, vectors>(sum, layer, begin, end, column);
        else
            gather_tile<false, vectors>(sum, layer, begin, end, column);
    });
}

// The synaptic input of (b, t) as a padded row. A constant current is read at the first call only.
template <class Real>
SB_INLINE void input_row(const LayerView<Real>& layer, int64_t b, int64_t t, bool first, Real* current) {
    if (!layer.current.data) {
        gather_current(current, layer, b * layer.steps + t);
    } else if (first || layer.current.stride_t != 0) {
        const Real* source = layer.current.data + t * layer.current.stride_t + b * layer.current.stride_b;
        if (t + prefetch_distance < layer.steps)
            prefetch_row(source + prefetch_distance * layer.current.stride_t, layer.width);
        load_row(current, source, layer.width, layer.padded);
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
