// A layer as the scans see it on the device: typed pointers, and which neuron a thread stands for.
#pragma once

#include "../common/neuron_step.hpp"
#include "../common/surrogate_rule.hpp"
#include "arguments.hpp"

#if defined(__CUDACC__)
#define SB_DEVICE __device__ __forceinline__
#else
#define SB_DEVICE SB_INLINE
#endif

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

constexpr unsigned full_warp = 0xFFFFFFFFu;

template <class T>
T* pointer(int64_t address) {
    return reinterpret_cast<T*>(address);
}

template <class Real>
struct Source {  // one value, or one per neuron
    const Real* data;
    int stride;
    Real fallback;

    SB_INLINE Real at(int64_t n) const { return data ? data[n * stride] : fallback; }
};

template <class Real>
Source<Real> source(const Coefficient& coefficient, Real fallback) {
    return {pointer<const Real>(coefficient.address), coefficient.per_neuron ? 1 : 0, fallback};
}

template <class Real>
struct Strided {  // [T, B, N] with a contiguous last axis; null data: absent
    Real* data;
    int64_t stride_t, stride_b;

    SB_INLINE Real* row(int64_t t, int64_t b) const { return data + t * stride_t + b * stride_b; }
};

struct EventRows {  // null ptr: absent
    const int64_t* ptr;
    const int32_t* idx;
};

template <class Real>
struct LayerView {
    int64_t steps, batch, width, words;
    Strided<const Real> current;  // absent: the input is events times weight_t, plus bias
    EventRows input;
    const Real *input_val, *weight_t, *bias;
    Source<Real> membrane, gain, synapse, leak, threshold, reset, graded;
    const Real *m0, *i0;
    const uint8_t* cuts;
    SurrogateRule<Real> rule;
    uint64_t key;
    int carriers;
    Real* checkpoints;

    SB_INLINE Coefficients<Real> coefficients(int64_t n) const {
        return {membrane.at(n), gain.at(n), synapse.at(n), leak.at(n), threshold.at(n), reset.at(n), graded.at(n)};
    }
    SB_INLINE bool is_cut(int64_t t) const { return cuts && cuts[t]; }
    // The checkpoint of a state (0: m, 1: i) before step t, a multiple of block_steps.
    SB_INLINE Real* checkpoint(int64_t t, int poles, int state, int64_t at) const {
        return checkpoints + ((t / block_steps * poles + state) * batch) * width + at;
    }
};

template <class Real>
LayerView<Real> layer_view(const DeviceLayer& layer) {
    LayerView<Real> view = {};
    const Real infinity = std::numeric_limits<Real>::infinity();
    view.steps = layer.steps;
    view.batch = layer.batch;
    view.width = layer.width;
    view.words = words_of(layer.width);
    view.current = {pointer<const Real>(layer.current), layer.current_stride_t, layer.current_stride_b};
    view.input = {pointer<const int64_t>(layer.in_ptr), pointer<const int32_t>(layer.in_idx)};
    view.input_val = pointer<const Real>(layer.in_val);
    view.weight_t = pointer<const Real>(layer.weight_t);
    view.bias = pointer<const Real>(layer.bias);
    view.membrane = source<Real>(layer.membrane, 0);
    view.gain = source<Real>(layer.gain, 1);
    view.synapse = source<Real>(layer.synapse, 0);
    view.leak = source<Real>(layer.leak, 0);
    // A neuron that does not fire has a threshold that nothing passes.
    view.threshold = layer.fires ? source<Real>(layer.threshold, infinity) : Source<Real>{nullptr, 0, infinity};
    view.reset = source<Real>(layer.reset, 0);
    view.graded = source<Real>(layer.graded, 1);
    view.m0 = pointer<const Real>(layer.m0);
    view.i0 = pointer<const Real>(layer.i0);
    view.cuts = pointer<const uint8_t>(layer.cuts);
    view.rule = surrogate_rule<Real>(layer);
    view.key = uint64_t(layer.key);
    view.carriers = layer.carriers;
    view.checkpoints = pointer<Real>(layer.checkpoints);
    return view;
}

// One lane's place: neuron n of batch element b. A warp's lanes share b and the word. Lanes past the last neuron stay
// for the warp's collectives.
struct Lane {
    int64_t tile, b, word, n;
    int lane;
    bool valid;
};

template <class Real>
SB_DEVICE Lane lane_of(const LayerView<Real>& layer) {
    Lane place;
    place.tile = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
    place.lane = int(threadIdx.x % lanes);
    place.b = place.tile / layer.words;
    place.word = place.tile % layer.words;
    place.n = place.word * lanes + place.lane;
    place.valid = place.b < layer.batch && place.n < layer.width;
    return place;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
