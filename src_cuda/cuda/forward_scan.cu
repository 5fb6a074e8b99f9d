// Feed, neuron step and events of a layer over all time steps, in one launch.
//
// One warp per batch element and 32 neurons, the state in registers; warps never wait for each other. Cost per step:
// the feed (feed.hpp), about 10 flops of the step, the surrogate where active entries are wanted, and one bit per entry
// and list. u is kept at active entries only, in a region of the warp's own, from where write_active packs it. Nothing
// of size T x B x N is written in floats unless dense outputs are asked for.
#include "../common/random.hpp"
#include "../common/sensitivity.hpp"
#include "../common/structures.hpp"
#include "feed.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

constexpr int threads = 128;
constexpr int max_carriers = 3;

template <class Real>
struct ScanOutputs {
    uint32_t *spike_bits, *active_bits, *reset_bits;
    int32_t* active_before;
    Real *staged_u, *staged_carriers;
    int64_t region;
    int carrier_count;
    unsigned long long* summary;
    Strided<Real> spikes, membrane;
    Real *m_last, *i_last, *carrier_m_last, *carrier_i_last;
};

// The words of one list that a warp collects: lane k keeps that of step k until the block of steps is over.
struct WordKeeper {
    uint32_t mine = 0;

    SB_DEVICE uint32_t add(const Lane& place, int step, bool bit) {
        const uint32_t word = __ballot_sync(full_warp, place.valid && bit);
        if (place.lane == step) mine = word;
        return word;
    }
};

template <class Neuron, class Real>
__global__ void __launch_bounds__(threads) forward_kernel(LayerView<Real> layer, ScanOutputs<Real> out) {
    __shared__ Real currents[block_steps * threads];
    const Lane place = lane_of(layer);
    if (place.b >= layer.batch) return;
    const int64_t n = place.valid ? place.n : 0, at = place.b * layer.width + n;
    const Coefficients<Real> c = layer.coefficients(n);
    Real m = place.valid && layer.m0 ? layer.m0[at] : Real(0);
    Real i = place.valid && Neuron::two_poles && layer.i0 ? layer.i0[at] : Real(0);
    Real sum = out.active_bits ? sampling_offset<Real>(layer.key, uint64_t(place.b), uint64_t(n)) : Real(0);
    Sensitivity<Real> senses[max_carriers] = {};
    int32_t listed = 0;
    Real* const current = currents + threadIdx.x;
    for (int64_t begin = 0; begin < layer.steps; begin += block_steps) {
        const int count = int(layer.steps - begin < block_steps ? layer.steps - begin : block_steps);
        load_currents<threads>(layer, place, begin, count, current);
        if (layer.checkpoints && place.valid) {
            *layer.checkpoint(begin, Neuron::two_poles ? 2 : 1, 0, at) = m;
            if (Neuron::two_poles) *layer.checkpoint(begin, 2, 1, at) = i;
        }
        WordKeeper spikes, active, resets;
        int32_t before = 0;
        for (int k = 0; k < count; ++k) {
            const int64_t t = begin + k;
            const Real m_prev = m, i_prev = i;
            const Step<Real> step = Neuron::forward(c, m, i, current[k * threads]);
            m = step.m;
            if (Neuron::two_poles) i = step.i;
            if (out.spike_bits) spikes.add(place, k, step.s != Real(0));
            if (out.reset_bits) resets.add(place, k, step.r != Real(0));
            Real sense_u[max_carriers];
            if (layer.carriers) {
                const bool detached = layer.is_cut(t);
#pragma unroll
                for (int p = 0; p < max_carriers; ++p) {
                    if (!(layer.carriers >> p & 1)) continue;
                    if (detached) senses[p] = {};
                    sense_u[p] = advance_sensitivity<Neuron>(c, step, m_prev, i_prev, Carrier(1 << p), senses[p]);
                }
            }
            if (out.active_bits) {
                const bool kept = keeps(layer.rule, sigma_of(layer.rule, step.u - c.threshold), sum);
                if (place.lane == k) before = listed;
                const uint32_t word = active.add(place, k, kept);
                const int32_t rank = listed + __popc(word & ((1u << place.lane) - 1));
                listed += __popc(word);
                if (place.valid && kept && rank < out.region) {
                    const int64_t entry = place.tile * out.region + rank;
                    out.staged_u[entry] = step.u;
                    int order = 0;
#pragma unroll
                    for (int p = 0; p < max_carriers; ++p)
                        if (layer.carriers >> p & 1)
                            out.staged_carriers[entry * out.carrier_count + order++] = sense_u[p];
                }
            }
            if (place.valid && out.spikes.data) out.spikes.row(t, place.b)[n] = c.graded * step.s;
            if (place.valid && out.membrane.data) out.membrane.row(t, place.b)[n] = m;
        }
        if (place.lane < count) {
            const int64_t word = place.tile * layer.steps + begin + place.lane;
            if (out.spike_bits) out.spike_bits[word] = spikes.mine;
            if (out.reset_bits) out.reset_bits[word] = resets.mine;
            if (out.active_bits) {
                out.active_bits[word] = active.mine;
                out.active_before[word] = before;
            }
        }
    }
    if (out.summary && place.lane == 0) atomicMax(out.summary, (unsigned long long)listed);
    if (out.summary && place.b == 0 && place.valid && c.graded != Real(1)) atomicMax(out.summary + 1, 1ull);
    if (!place.valid) return;
    if (out.m_last) out.m_last[at] = m;
    if (out.i_last && Neuron::two_poles) out.i_last[at] = i;
    int64_t order = 0;
#pragma unroll
    for (int p = 0; p < max_carriers; ++p) {
        if (!(layer.carriers >> p & 1)) continue;
        const int64_t to = order++ * layer.batch * layer.width + at;
        if (out.carrier_m_last) out.carrier_m_last[to] = senses[p].m;
        if (out.carrier_i_last) out.carrier_i_last[to] = senses[p].i;
    }
}

template <class Real>
ScanOutputs<Real> outputs_of(const DeviceLayer& layer) {
    ScanOutputs<Real> out = {};
    out.spike_bits = pointer<uint32_t>(layer.spike_bits);
    out.active_bits = pointer<uint32_t>(layer.active_bits);
    out.reset_bits = pointer<uint32_t>(layer.reset_bits);
    out.active_before = pointer<int32_t>(layer.active_before);
    out.staged_u = pointer<Real>(layer.staged_u);
    out.staged_carriers = pointer<Real>(layer.staged_carriers);
    out.region = layer.region;
    for (int bits = layer.carriers; bits; bits &= bits - 1) ++out.carrier_count;
    out.summary = pointer<unsigned long long>(layer.summary);
    out.spikes = {pointer<Real>(layer.spikes), layer.spikes_stride_t, layer.spikes_stride_b};
    out.membrane = {pointer<Real>(layer.membrane_out), layer.membrane_stride_t, layer.membrane_stride_b};
    out.m_last = pointer<Real>(layer.m_last);
    out.i_last = pointer<Real>(layer.i_last);
    out.carrier_m_last = pointer<Real>(layer.carrier_m_last);
    out.carrier_i_last = pointer<Real>(layer.carrier_i_last);
    return out;
}

struct Run {
    const DeviceLayer& layer;

    template <Integrator integrator, int poles, Pre pre, Post post>
    void run() const {
        typedef Neuron<integrator, poles, pre, post> N;
        if constexpr (N::is_supported) {
            if (layer.dtype == float64)
                launch<N, double>();
            else
                launch<N, float>();
        }
    }

    template <class N, class Real>
    void launch() const {
        const LayerView<Real> view = layer_view<Real>(layer);
        SB_RUN("layer, kernel forward_scan", (forward_kernel<N, Real>),
               divide_up(view.batch * view.words * lanes, threads), threads, layer, view, outputs_of<Real>(layer));
    }
};

struct Supported {
    template <Integrator integrator, int poles, Pre pre, Post post>
    bool run() const {
        return Neuron<integrator, poles, pre, post>::is_supported;
    }
};

}  // namespace
}  // namespace SPARSE_BACKEND_VARIANT

void forward_scan(const DeviceLayer& layer) {
    SPARSE_BACKEND_VARIANT::with_structure(Integrator(layer.integrator), layer.poles, Pre(layer.pre), Post(layer.post),
                                           SPARSE_BACKEND_VARIANT::Run{layer});
}

bool is_supported(const Layer& layer) {
    return SPARSE_BACKEND_VARIANT::with_structure(Integrator(layer.integrator), layer.poles, Pre(layer.pre),
                                                  Post(layer.post), SPARSE_BACKEND_VARIANT::Supported());
}

}  // namespace sparse_backend
