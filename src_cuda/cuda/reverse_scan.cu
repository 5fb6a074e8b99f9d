// Reverse scan over a range of time steps: lambda = dL/dI, state gradients, and sums for the learned coefficients.
//
// One warp per batch element and 32 neurons, the adjoints in registers; warps never wait for each other. Steps are
// visited in blocks: first everything that does not depend on the adjoints is brought into shared memory (independent
// loads), then the adjoints run through the block. The trajectory comes from event lists where sigma' is sparse: where
// entries were active, their u, where neurons spiked or were reset. Otherwise it is recomputed from checkpoints, one
// block at a time. Cost per step: about 20 flops and one row of lambda written; from events a search per 16 steps and
// list and the reads of active entries, recomputed the forward step and its feed again.
#include "../common/structures.hpp"
#include "feed.hpp"
#include "words.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

constexpr int threads = 64;

// What a block of steps keeps per lane in shared memory.
enum Slot : int { slot_u = 0, slot_sigma, slot_m = 0, slot_i, slot_current, slot_g_z, slot_g_m, slot_count };

template <class Real>
struct ReverseView {
    int64_t begin, end;
    EventRows active, spikes, resets;
    const Real *active_u, *active_carriers, *g_active;
    int carrier_count;
    Strided<const Real> g_spikes, g_membrane;
    const Real *g_m_last, *g_i_last, *carrier_m_last, *carrier_i_last;
    Real *mu, *carry;
    Strided<Real> d_current;
    Real *d_m0, *d_i0, *sums;
    int wanted;
    bool recompute, drawn;
};

// The step's variables that reverse() and the sums read.
template <class Real>
struct Moment {
    Step<Real> step;
    Real m_prev, i_prev;
    Real sigma, g_z, raw_g_z, g_m;
};

// Sums over time of one lane.
template <class Real>
struct Sums {
    Real value[sum_count] = {};

    SB_DEVICE void load(const ReverseView<Real>& view, int64_t at, int64_t stride) {
#pragma unroll
        for (int k = 0; k < sum_count; ++k)
            if (view.wanted >> k & 1) value[k] = view.sums[k * stride + at];
    }
    SB_DEVICE void store(const ReverseView<Real>& view, int64_t at, int64_t stride) const {
#pragma unroll
        for (int k = 0; k < sum_count; ++k)
            if (view.wanted >> k & 1) view.sums[k * stride + at] = value[k];
    }

    // What needs spikes, resets and adjoints only.
    template <class Neuron>
    SB_DEVICE void add(const Coefficients<Real>& c, const Moment<Real>& now, const ReverseOutput<Real>& out) {
        if (Neuron::euler) value[sum_leak] += Neuron::current_factor(c) * out.mu;
        Real threshold = -out.spike;
        if (Neuron::pre_reset == Pre::subtract) threshold -= now.step.r * out.mu;
        if (Neuron::post_reset == Post::subtract) threshold -= (now.step.s - now.step.r) * out.l;
        if (Neuron::post_reset == Post::subtract_all) threshold -= now.step.s * out.l;
        value[sum_threshold] += threshold;
        if (Neuron::post_reset == Post::value) value[sum_reset] += now.step.s * out.l;
        value[sum_graded] += now.step.s * now.raw_g_z;
    }

    // The decays, from the trajectory itself.
    template <class Neuron>
    SB_DEVICE void add_decays(const Coefficients<Real>& c, const Moment<Real>& now, const ReverseOutput<Real>& out) {
        const Real drive = now.step.i_new;
        value[sum_membrane] +=
            out.mu * (Neuron::euler ? (c.leak - now.m_prev) + drive : Neuron::keep_leak(now.step.r) * now.m_prev);
        if (!Neuron::euler) value[sum_gain] += out.mu * drive;
        if (Neuron::two_poles) value[sum_synapse] += Neuron::euler ? -out.eta * drive : out.lambda * now.i_prev;
    }

    // The decays, from the sensitivities (one per learned decay): sum of factor * sensitivity.
    SB_DEVICE void add_carried(int carriers, Real factor, const Real* sensitivities, int64_t stride) {
        int order = 0;
#pragma unroll
        for (int p = 0; p < 3; ++p)
            if (carriers >> p & 1) value[sum_membrane + p] += factor * sensitivities[order++ * stride];
    }
};

// Whether r[t] can differ from the spikes of t - 1, so that it is a list of its own.
template <class Neuron>
constexpr bool has_reset_list = Neuron::post_reset == Post::subtract || Neuron::post_reset == Post::zero;

// r of the block's steps, one word per lane.
template <class Neuron, class Real>
SB_DEVICE void find_resets(const ReverseView<Real>& view, const Lane& place, int64_t row, int64_t begin, int count,
                           bool reset_at_start, WordBlock& resets) {
    if (has_reset_list<Neuron>) return resets.find(view.resets, place, row, count);
    if (Neuron::pre_reset == Pre::none) return;
    // Where nothing happens to m after a spike, r is the spike of the step before.
    const uint32_t first = __ballot_sync(full_warp, reset_at_start);
    resets.mine = {0, 0};
    if (place.lane >= count) return;
    if (begin + place.lane == 0)
        resets.mine.bits = first;
    else if (view.spikes.ptr)
        resets.mine = find_word(view.spikes, row + place.lane - 1, place.word);
}

template <class Neuron, class Real>
struct Scan {
    const LayerView<Real>& layer;
    const ReverseView<Real>& view;
    const Lane place;
    const Coefficients<Real> c;
    Real* const slots;  // this lane's slot 0 of step 0
    int64_t at;
    bool reset_at_start;
    WordBlock active, spikes, resets;
    Real mu, carry, r_next;
    Sums<Real> sums;

    SB_DEVICE Real& slot(int which, int step) const { return slots[(which * block_steps + step) * threads]; }

    // Brings in what steps [begin, begin + count) need besides the adjoints.
    __device__ void prepare(int64_t begin, int count) {
        const int64_t row = place.b * layer.steps + begin;
        active.find(view.active, place, row, count);
        if (view.recompute) {
            recompute(begin, count);
        } else {
            spikes.find(view.spikes, place, row, count);
            find_resets<Neuron>(view, place, row, begin, count, reset_at_start, resets);
        }
#pragma unroll 4
        for (int k = 0; k < count; ++k) {
            const Word word = active.at(k);
            const bool listed = word.has(place.lane);
            const bool spiked = spikes.at(k).has(place.lane);
            Real g = Real(0), sigma = Real(0), u = Real(0);
            if (listed) {
                const int64_t entry = entry_of(word, place.lane);
                if (view.g_active) g = view.g_active[entry];
                if (!view.recompute) {
                    u = view.active_u[entry];
                    const Real x = u - c.threshold;
                    sigma = active_value(layer.rule.gradient, layer.rule.level, sigma_of(layer.rule, x), x);
                }
            }
            if (view.g_spikes.data && place.valid && (listed || spiked || view.recompute))
                g += view.g_spikes.row(begin + k, place.b)[place.n];
            if (!view.recompute) {
                slot(slot_u, k) = u;
                slot(slot_sigma, k) = sigma;
            }
            slot(slot_g_z, k) = g;
            slot(slot_g_m, k) =
                view.g_membrane.data && place.valid ? view.g_membrane.row(begin + k, place.b)[place.n] : Real(0);
        }
    }

    // The states before each step of the block, from its checkpoint.
    __device__ void recompute(int64_t begin, int count) {
        constexpr int poles = Neuron::two_poles ? 2 : 1;
        load_currents<threads>(layer, place, begin, count, &slot(slot_current, 0));
        Real m = place.valid ? *layer.checkpoint(begin, poles, 0, at) : Real(0);
        Real i = place.valid && Neuron::two_poles ? *layer.checkpoint(begin, poles, 1, at) : Real(0);
        for (int k = 0; k < count; ++k) {
            slot(slot_m, k) = m;
            slot(slot_i, k) = i;
            const Step<Real> step = Neuron::forward(c, m, i, slot(slot_current, k));
            m = step.m;
            if (Neuron::two_poles) i = step.i;
        }
        r_next = Neuron::reset_of(c, m);
    }

    // Step k of the block from its slots.
    SB_DEVICE Moment<Real> moment(int k) const {
        Moment<Real> now = {};
        now.g_z = now.raw_g_z = slot(slot_g_z, k);
        now.g_m = slot(slot_g_m, k);
        if (!view.recompute) {
            now.step.u = slot(slot_u, k);
            now.sigma = slot(slot_sigma, k);
            now.step.s = spikes.at(k).has(place.lane) ? Real(1) : Real(0);
            now.step.r = resets.at(k).has(place.lane) ? Real(1) : Real(0);
            return now;
        }
        now.m_prev = slot(slot_m, k);
        now.i_prev = slot(slot_i, k);
        now.step = Neuron::forward(c, now.m_prev, now.i_prev, slot(slot_current, k));
        const Real x = now.step.u - c.threshold;
        now.sigma = sigma_of(layer.rule, x);
        if (!view.active.ptr) return now;
        const bool listed = active.at(k).has(place.lane);
        const Real value = listed ? active_value(layer.rule.gradient, layer.rule.level, now.sigma, x) : Real(0);
        // Scaled, because reverse() multiplies by sigma'.
        if (view.drawn)
            now.g_z = now.sigma != Real(0) ? now.g_z * (value / now.sigma) : Real(0);
        else
            now.sigma = value;
        return now;
    }

    __device__ void run(int64_t begin, int count) {
        prepare(begin, count);
        for (int k = count - 1; k >= 0; --k) {
            const int64_t t = begin + k;
            const bool last = t + 1 == layer.steps;
            if (!last && layer.is_cut(t + 1)) mu = carry = Real(0);
            const Moment<Real> now = moment(k);
            ReverseInput<Real> in;
            in.u = now.step.u;
            in.s = now.step.s;
            in.r = now.step.r;
            in.r_next = r_next;
            in.sigma = now.sigma;
            in.g_z = now.g_z;
            in.g_m = now.g_m + (last && view.g_m_last && place.valid ? view.g_m_last[at] : Real(0));
            in.g_i = last && view.g_i_last && place.valid && Neuron::two_poles ? view.g_i_last[at] : Real(0);
            in.mu_next = mu;
            in.carry_next = carry;
            const ReverseOutput<Real> out = Neuron::reverse(c, in);
            mu = out.mu;
            carry = out.carry;
            r_next = now.step.r;
            sums.value[sum_current] += out.lambda;
            if (view.wanted >> sum_membrane) {
                sums.template add<Neuron>(c, now, out);
                if (view.recompute) {
                    sums.template add_decays<Neuron>(c, now, out);
                } else if (view.active_carriers) {
                    const Word word = active.at(k);
                    if (word.has(place.lane))
                        sums.add_carried(layer.carriers, out.spike,
                                         view.active_carriers + entry_of(word, place.lane) * view.carrier_count, 1);
                }
            }
            if (view.d_current.data && place.valid) view.d_current.row(t - view.begin, place.b)[place.n] = out.lambda;
        }
    }

    // State and sums as the range after this one left them.
    __device__ void start() {
        const int64_t entries = layer.batch * layer.width;
        if (place.valid && view.end < layer.steps) {
            mu = view.mu[at];
            carry = Neuron::two_poles ? view.carry[at] : Real(0);
            sums.load(view, at, entries);
        }
        if (place.valid && view.end == layer.steps && !view.recompute) {
            if (view.g_m_last && view.carrier_m_last)
                sums.add_carried(layer.carriers, view.g_m_last[at], view.carrier_m_last + at, entries);
            if (view.g_i_last && view.carrier_i_last && Neuron::two_poles)
                sums.add_carried(layer.carriers, view.g_i_last[at], view.carrier_i_last + at, entries);
        }
        if (Neuron::pre_reset == Pre::cut_leak && !view.recompute && view.end < layer.steps) {
            find_resets<Neuron>(view, place, place.b * layer.steps + view.end, view.end, 1, reset_at_start, resets);
            r_next = resets.at(0).has(place.lane) ? Real(1) : Real(0);
        }
    }

    __device__ void finish() {
        if (!place.valid) return;
        sums.store(view, at, layer.batch * layer.width);
        if (view.begin > 0) {
            view.mu[at] = mu;
            if (Neuron::two_poles) view.carry[at] = carry;
            return;
        }
        // r_next is the reset of step 0 by now.
        const bool detached = layer.is_cut(0);
        if (view.d_m0) view.d_m0[at] = detached ? Real(0) : Neuron::leak_factor(c) * Neuron::keep_leak(r_next) * mu;
        if (view.d_i0) view.d_i0[at] = detached || !Neuron::two_poles ? Real(0) : carry;
    }
};

template <class Neuron, class Real>
__global__ void __launch_bounds__(threads) reverse_kernel(LayerView<Real> layer, ReverseView<Real> view) {
    __shared__ Real slots[slot_count * block_steps * threads];
    const Lane place = lane_of(layer);
    if (place.b >= layer.batch) return;
    const int64_t n = place.valid ? place.n : 0, at = place.b * layer.width + n;
    const Coefficients<Real> c = layer.coefficients(n);
    const bool reset_at_start = place.valid && Neuron::reset_of(c, layer.m0 ? layer.m0[at] : Real(0)) != Real(0);
    Scan<Neuron, Real> scan = {layer,   view,    place,   c, slots + threadIdx.x, at, reset_at_start, {}, {}, {},
                               Real(0), Real(0), Real(0), {}};
    scan.start();
    for (int64_t end = view.end; end > view.begin;) {
        const int64_t begin = (end - 1) / block_steps * block_steps;
        scan.run(begin, int(end - begin));
        end = begin;
    }
    scan.finish();
}

template <class Real>
ReverseView<Real> reverse_view(const DeviceLayer& layer, const ReverseScan& r) {
    ReverseView<Real> view = {};
    view.begin = r.begin;
    view.end = r.end;
    view.active = {pointer<const int64_t>(r.active_ptr), pointer<const int32_t>(r.active_idx)};
    view.spikes = {pointer<const int64_t>(r.spike_ptr), pointer<const int32_t>(r.spike_idx)};
    view.resets = {pointer<const int64_t>(r.reset_ptr), pointer<const int32_t>(r.reset_idx)};
    view.active_u = pointer<const Real>(r.active_u);
    view.active_carriers = pointer<const Real>(r.active_carriers);
    view.g_active = pointer<const Real>(r.g_active);
    for (int bits = layer.carriers; bits; bits &= bits - 1) ++view.carrier_count;
    view.g_spikes = {pointer<const Real>(r.g_spikes), r.g_spikes_stride_t, r.g_spikes_stride_b};
    view.g_membrane = {pointer<const Real>(r.g_membrane), r.g_membrane_stride_t, r.g_membrane_stride_b};
    view.g_m_last = pointer<const Real>(r.g_m_last);
    view.g_i_last = pointer<const Real>(r.g_i_last);
    view.carrier_m_last = pointer<const Real>(layer.carrier_m_last);
    view.carrier_i_last = pointer<const Real>(layer.carrier_i_last);
    view.mu = pointer<Real>(r.mu);
    view.carry = pointer<Real>(r.carry);
    view.d_current = {pointer<Real>(r.d_current), r.d_current_stride_t, r.d_current_stride_b};
    view.d_m0 = pointer<Real>(r.d_m0);
    view.d_i0 = pointer<Real>(r.d_i0);
    view.sums = pointer<Real>(r.sums);
    view.wanted = r.wanted;
    view.recompute = r.recompute;
    view.drawn = r.drawn;
    return view;
}

struct Run {
    const DeviceLayer& layer;
    const ReverseScan& reverse;

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
        SB_RUN("layer_backward, kernel reverse_scan", (reverse_kernel<N, Real>),
               divide_up(view.batch * view.words * lanes, threads), threads, layer, view,
               reverse_view<Real>(layer, reverse));
    }
};

}  // namespace
}  // namespace SPARSE_BACKEND_VARIANT

void reverse_scan(const DeviceLayer& layer, const ReverseScan& reverse) {
    SPARSE_BACKEND_VARIANT::with_structure(Integrator(layer.integrator), layer.poles, Pre(layer.pre), Post(layer.post),
                                           SPARSE_BACKEND_VARIANT::Run{layer, reverse});
}

}  // namespace sparse_backend
