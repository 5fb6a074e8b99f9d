// The synaptic currents of the next few steps of one warp's neurons, into shared memory.
//
// Cost: one coalesced row segment of W^T (L2) per input event, or one of a dense current per step. The events of
// consecutive steps are one contiguous list, so loads run ahead across step boundaries, eight in flight per lane: the
// feed does not wait for the state. Each lane writes and reads its own slots only; no barrier is needed. The order of
// the additions is that of the events, then the bias, as on the CPU.
#pragma once

#include "view.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Currents of steps [begin, begin + count) to out[k * stride].
template <int stride, class Real>
__device__ void gather_currents(const LayerView<Real>& layer, const Lane& place, int64_t begin, int count, Real* out) {
    constexpr int ahead = 8;
    const int lane = place.lane;
    const int64_t row = place.b * layer.steps + begin;
    // Lane k holds where the events of step k begin; lane `count` where the last step's end.
    const int64_t mine = layer.input.ptr[row + (lane < count ? lane : count)];
    const int64_t end = __shfl_sync(full_warp, mine, count);
    int64_t step_end = __shfl_sync(full_warp, mine, 1);
    const Real bias = layer.bias && place.valid ? layer.bias[place.n] : Real(0);
    const Real* weight = layer.weight_t + place.n;
    int step = 0;
    Real sum = Real(0);
    for (int64_t e = __shfl_sync(full_warp, mine, 0); e < end; e += lanes) {
        const int batch = end - e < lanes ? int(end - e) : lanes;
        const int32_t index = lane < batch ? layer.input.idx[e + lane] : 0;
        const Real value = layer.input_val && lane < batch ? layer.input_val[e + lane] : Real(1);
        for (int from = 0; from < batch; from += ahead) {
            Real loaded[ahead];
#pragma unroll
            for (int k = 0; k < ahead; ++k) {
                const int64_t input = __shfl_sync(full_warp, index, from + k);
                loaded[k] = place.valid && from + k < batch ? weight[input * layer.width] : Real(0);
            }
#pragma unroll
            for (int k = 0; k < ahead; ++k) {
                if (from + k >= batch) break;
                while (e + from + k >= step_end) {
                    out[step * stride] = sum + bias;
                    sum = Real(0);
                    step_end = __shfl_sync(full_warp, mine, ++step + 1);
                }
                sum += layer.input_val ? __shfl_sync(full_warp, value, from + k) * loaded[k] : loaded[k];
            }
        }
    }
    for (; step < count; ++step) {
        out[step * stride] = sum + bias;
        sum = Real(0);
    }
}

template <int stride, class Real>
SB_DEVICE void load_currents(const LayerView<Real>& layer, const Lane& place, int64_t begin, int count, Real* out) {
    if (!layer.current.data) return gather_currents<stride>(layer, place, begin, count, out);
    const Real* from = layer.current.row(begin, place.b) + place.n;
#pragma unroll 8
    for (int k = 0; k < count; ++k) out[k * stride] = place.valid ? from[k * layer.current.stride_t] : Real(0);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
