// Reverse scan by innovations: between events every adjoint only decays.
//
// Cost per time step where active entries do no more than add (plain_steps): clearing a row, one addition per active
// entry, and one pass with mu in registers. Else one pass of the row (its decay and the bias sum), one more for a
// second pole or a gain, and work per event: active entries, spiked entries and resets (where the carried state was
// cut). Then the products of products.hpp. Nothing of size T x N is read, except a gradient on the membrane or the
// spikes that arrives dense.
#pragma once

#include "chunks.hpp"
#include "products.hpp"
#include "sparse_entries.hpp"
#include "trace.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Where lambda is mu itself, the row of mu does for both.
template <class Real>
bool has_unit_gain(const LayerView<Real>& layer) {
    if (layer.poles != 1 || layer.integrator == Integrator::euler) return false;
    bool unit = true;
    for (int64_t j = 0; j < layer.width; ++j) unit &= layer.coefficients.gain[j] == Real(1);
    return unit;
}

// l = adjoint of m[t] from step t + 1 and from outside, in the place of mu. With sum, mu of step t + 1 is added to it.
template <class Real>
void membrane_adjoint(const LayerView<Real>& layer, const GradientView<Real>& grads, ReverseScratch<Real>& scratch,
                      int64_t b, int64_t t, bool alive, Real* SB_RESTRICT sum) {
    const int64_t n = layer.padded, width = layer.width;
    Real* SB_RESTRICT l = scratch.mu;
    const Real* SB_RESTRICT decay = scratch.decay;
    if (sum && alive) {
        for (int64_t j = 0; j < n; ++j) {
            sum[j] += l[j];
            l[j] *= decay[j];
        }
    } else if (alive) {
        for (int64_t j = 0; j < n; ++j) l[j] *= decay[j];
    } else {
        if (sum) add_row(sum, l, n);
        fill_row(l, n, Real(0));
    }
    if (grads.trace) store_row(scratch.plain, l, n);
    if (alive && layer.pre == Pre::cut_leak) {
        const Entries next = resets_at(layer, grads, scratch, b, t + 1);
        for (int64_t k = 0; k < next.count; ++k) l[next[k]] = Real(0);
    }
    if (t == layer.steps - 1 && grads.g_m_last) add_row(l, grads.g_m_last + b * layer.columns, width);
    if (grads.g_membrane.data) {
        const Real* g = grads.g_membrane.data + t * grads.g_membrane.stride_t + b * grads.g_membrane.stride_b;
        if (t >= prefetch_distance) prefetch_row(g - prefetch_distance * grads.g_membrane.stride_t, width);
        add_row(l, g, width);
    }
}

template <int poles, bool euler, class Real>
SB_INLINE void lambda_row(const LayerView<Real>& layer, ReverseScratch<Real>& scratch, Real* SB_RESTRICT lambda,
                          Real* SB_RESTRICT bias) {
    const Real* SB_RESTRICT factor = euler ? layer.coefficients.membrane : layer.coefficients.gain;
    const Real *SB_RESTRICT mu = scratch.mu, *SB_RESTRICT synapse = layer.coefficients.synapse;
    Real* SB_RESTRICT carry = scratch.carry;
    for (int64_t j = 0; j < layer.padded; ++j) {
        Real value = factor[j] * mu[j];
        if (poles == 2) {
            value += euler ? (Real(1) - synapse[j]) * carry[j] : carry[j];
            carry[j] = euler ? value : synapse[j] * value;
        }
        lambda[j] = value;
        bias[j] += value;
    }
}

// lambda from mu, and the adjoint carried to the synaptic state of t - 1; lambda is added to the bias sum.
template <class Real>
void current_adjoint(const LayerView<Real>& layer, const GradientView<Real>& grads, ReverseScratch<Real>& scratch,
                     Real* lambda, Real* bias, int64_t b, int64_t t, bool alive) {
    const bool euler = layer.integrator == Integrator::euler;
    if (layer.poles == 1)
        return euler ? lambda_row<1, true>(layer, scratch, lambda, bias)
                     : lambda_row<1, false>(layer, scratch, lambda, bias);
    if (!alive) fill_row(scratch.carry, layer.padded, Real(0));
    if (t == layer.steps - 1 && grads.g_i_last) add_row(scratch.carry, grads.g_i_last + b * layer.columns, layer.width);
    if (euler)
        lambda_row<2, true>(layer, scratch, lambda, bias);
    else
        lambda_row<2, false>(layer, scratch, lambda, bias);
}

// Final-state gradients meet the carriers' final values.
template <class Real>
void carrier_tails(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                   int64_t b) {
    const int64_t width = layer.width, row = b * layer.columns;
    const bool wanted[] = {grads.want_membrane, grads.want_gain, grads.want_synapse};
    Real* targets[] = {sums.membrane, sums.gain, sums.synapse};
    for (int p = 0; p < 3; ++p) {
        if (!wanted[p]) continue;
        const int64_t k = carrier_index(layer.carriers, Carrier(1 << p));
        const int64_t at = (k * layer.batch + b) * layer.columns;
        if (grads.g_m_last)
            for (int64_t j = 0; j < width; ++j) targets[p][j] += grads.g_m_last[row + j] * layer.carrier_m_last[at + j];
        if (grads.g_i_last && layer.poles == 2)
            for (int64_t j = 0; j < width; ++j) targets[p][j] += grads.g_i_last[row + j] * layer.carrier_i_last[at + j];
    }
}

template <class Real>
void start_reverse(const LayerView<Real>& layer, const GradientView<Real>& grads, const ReverseScratch<Real>& scratch) {
    fill_row(scratch.mu, layer.padded, Real(0));
    fill_row(scratch.carry, layer.padded, Real(0));
    if (grads.d_current_sum) fill_row(scratch.element_sum, layer.padded, Real(0));
}

// The sums of a scan, whose sum of lambda is one batch element's own where that is wanted.
template <class Real>
SlotSums<Real> sums_of_scan(const GradientView<Real>& grads, const SlotSums<Real>& slot,
                            const ReverseScratch<Real>& scratch) {
    SlotSums<Real> sums = slot;
    if (grads.d_current_sum) sums.bias = scratch.element_sum;
    return sums;
}

template <class Real>
void finish_element_sum(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& slot,
                        const ReverseScratch<Real>& scratch, int64_t b) {
    if (!grads.d_current_sum) return;
    store_row(grads.d_current_sum + b * layer.columns, scratch.element_sum, layer.width);
    add_row(slot.bias, scratch.element_sum, layer.padded);
}

// Gradient of the initial state; mu and carry are those of step 0.
template <class Real>
void initial_gradients(const LayerView<Real>& layer, const GradientView<Real>& grads,
                       const ReverseScratch<Real>& scratch, int64_t b) {
    const int64_t width = layer.width, row = b * layer.columns;
    const bool detached = layer.cuts && layer.cuts[0];
    for (int64_t j = 0; grads.d_m0 && j < width; ++j) {
        const Real m = layer.m0 ? layer.m0[row + j] : Real(0);
        const bool cut = layer.pre == Pre::cut_leak && m > layer.coefficients.threshold[j];
        grads.d_m0[row + j] = detached || cut ? Real(0) : scratch.decay[j] * scratch.mu[j];
    }
    for (int64_t j = 0; grads.d_i0 && j < width; ++j)
        grads.d_i0[row + j] = detached || layer.poles == 1 ? Real(0) : scratch.carry[j];
}

// Steps [from, to) of batch element b, whatever the neuron; mu and carry go from one call to the next.
template <class Real>
void event_steps(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                 ReverseScratch<Real>& scratch, int64_t b, int64_t from, int64_t to, Real* lambda) {
    const int64_t n = layer.padded, steps = layer.steps, row0 = b * steps;
    const bool unit_gain = scratch.unit_gain, simple = adds_only(layer, grads);
    Real* mu = scratch.mu;
    scratch.l = mu;  // the adjoint of m becomes that of w where it lies
    for (int64_t t = to - 1; t >= from; --t) {
        const bool alive = t + 1 < steps && !(layer.cuts && layer.cuts[t + 1]);
        const Entries active = entries_of(layer, grads.active, row0 + t);
        const Entries spiked = entries_of(layer, grads.spikes, row0 + t);
        const Entries resets = resets_at(layer, grads, scratch, b, t);
        membrane_adjoint(layer, grads, scratch, b, t, alive, unit_gain ? sums.bias : nullptr);
        const Real* add = scratch.entry_add;
        if (simple)
            add = active.count ? grads.entry_values + (active.idx - grads.active.idx) : nullptr;
        else
            active_entries(layer, grads, sums, scratch, b, t, active);
        through_reset(layer, grads, sums, scratch, spiked, resets);
        for (int64_t k = 0; k < active.count; ++k) mu[active[k]] += add[k];
        if (layer.pre == Pre::wipe)
            for (int64_t k = 0; k < resets.count; ++k) mu[resets[k]] = Real(0);
        if (grads.trace) record_innovations(layer, scratch.trace, t, mu, scratch.plain);
        if (grads.want_threshold && layer.pre == Pre::subtract)
            for (int64_t k = 0; k < resets.count; ++k) sums.threshold[resets[k]] -= mu[resets[k]];
        if (grads.want_graded && grads.g_spikes.data) {
            const Real* g = grads.g_spikes.data + t * grads.g_spikes.stride_t + b * grads.g_spikes.stride_b;
            for (int64_t k = 0; k < spiked.count; ++k) sums.graded[spiked[k]] += g[spiked[k]];
        }
        if (grads.want_leak) add_row(sums.leak, mu, n);
        Real* row = lambda + (t - from) * n;
        if (unit_gain)
            store_row(row, mu, n);
        else
            current_adjoint(layer, grads, scratch, row, sums.bias, b, t, alive);
    }
    if (unit_gain && from == 0) add_row(sums.bias, mu, n);
}

// Whether a step is no more than a decay and additions: no reset bends the gradient, lambda is a multiple of mu.
template <class Real>
bool is_plain(const LayerView<Real>& layer, const GradientView<Real>& grads) {
    const bool detached = layer.pre == Pre::none || layer.pre == Pre::subtract;
    const bool innovations_listed = !grads.g_membrane.data && !grads.g_m_last;
    return detached && layer.poles == 1 && adds_only(layer, grads) && !grads.want_leak &&
           (!grads.trace || innovations_listed);
}

// From rows of innovations to rows of lambda, where they lie, mu staying in registers.
template <int vectors, bool unit_gain, class Real>
SB_INLINE void decay_tile(Real* rows, int64_t n, int64_t steps, Real* mu, Real* bias, const Real* decay,
                          const Real* gain) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    Vector m[vectors], sum[vectors];
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) {
        m[k] = *(const Vector*)(mu + k * lanes);
        sum[k] = *(const Vector*)(bias + k * lanes);
    }
    for (Real* row = rows + (steps - 1) * n; row >= rows; row -= n)
#pragma GCC unroll 16
        for (int k = 0; k < vectors; ++k) {
            Vector& at = *(Vector*)(row + k * lanes);
            m[k] = m[k] * *(const Vector*)(decay + k * lanes) + at;
            const Vector lambda = unit_gain ? m[k] : m[k] * *(const Vector*)(gain + k * lanes);
            sum[k] += lambda;
            at = lambda;
        }
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) {
        *(Vector*)(mu + k * lanes) = m[k];
        *(Vector*)(bias + k * lanes) = sum[k];
    }
}

template <bool unit_gain, class Real>
void decay_rows(const LayerView<Real>& layer, const ReverseScratch<Real>& scratch, Real* rows, int64_t steps,
                Real* bias) {
    const bool euler = layer.integrator == Integrator::euler;
    const Real* gain = euler ? layer.coefficients.membrane : layer.coefficients.gain;
    for_tiles<Real, tile_vectors / 2>(layer.padded, [&](int64_t column, auto tile) {
        decay_tile<decltype(tile)::count, unit_gain>(rows + column, layer.padded, steps, scratch.mu + column,
                                                     bias + column, scratch.decay + column, gain + column);
    });
}

// Adds what the active entries of rows [row, row + rows) add.
template <class Real>
void add_entries(const LayerView<Real>& layer, const GradientView<Real>& grads, const ReverseScratch<Real>& scratch,
                 int64_t row, int64_t rows, Real* innovations) {
    const int64_t n = layer.padded;
    if (!grads.active.ptr) return;
    if (layer.width < layer.columns) {
        for (int64_t r = 0; r < rows; ++r) {
            const Entries active = entries_of(layer, grads.active, row + r);
            const Real* add = grads.entry_values + (active.idx - grads.active.idx);
            for (int64_t k = 0; k < active.count; ++k) innovations[r * n + active[k]] += add[k];
        }
        return;
    }
    const int64_t first = grads.active.ptr[row], count = grads.active.ptr[row + rows] - first;
    const int32_t* idx = grads.active.idx + first;
    const Real* add = grads.entry_values + first;
    spread_rows(grads.active.ptr + row, rows, scratch.event_row);
    for (int64_t e = count - 1; e >= 0; --e) innovations[int64_t(scratch.event_row[e]) * n + idx[e]] += add[e];
}

// As event_steps, for plain layers: first all innovations, then the decay.
template <class Real>
void plain_steps(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                 ReverseScratch<Real>& scratch, int64_t b, int64_t from, int64_t to, Real* lambda) {
    const int64_t n = layer.padded, steps = layer.steps, width = layer.width;
    const Strided<const Real>& outer = grads.g_membrane;
    if (!outer.data) fill_row(lambda, (to - from) * n, Real(0));
    for (int64_t t = to - 1; outer.data && t >= from; --t) {
        const Real* g = outer.data + t * outer.stride_t + b * outer.stride_b;
        if (t >= prefetch_distance) prefetch_row(g - prefetch_distance * outer.stride_t, width);
        load_row(lambda + (t - from) * n, g, width, n);
    }
    add_entries(layer, grads, scratch, b * steps + from, to - from, lambda);
    if (to == steps && grads.g_m_last) add_row(lambda + (to - 1 - from) * n, grads.g_m_last + b * layer.columns, width);
    // The state that enters step `begin` is detached, or begin is from.
    for (int64_t end = to, begin; end > from; end = begin) {
        begin = layer.cuts ? end - 1 : from;
        while (begin > from && !layer.cuts[begin]) --begin;
        if (layer.cuts && end < steps && layer.cuts[end]) fill_row(scratch.mu, n, Real(0));
        Real* rows = lambda + (begin - from) * n;
        if (scratch.unit_gain)
            decay_rows<true>(layer, scratch, rows, end - begin, sums.bias);
        else
            decay_rows<false>(layer, scratch, rows, end - begin, sums.bias);
    }
}

template <class Real>
void sparse_reverse(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& slot,
                    ReverseScratch<Real>& scratch, int64_t first, int64_t last) {
    const int64_t steps = layer.steps;
    const bool plain = is_plain(layer, grads);
    const SlotSums<Real> sums = sums_of_scan(grads, slot, scratch);
    scratch.unit_gain = has_unit_gain(layer);
    const auto scan = [&](int64_t b, int64_t from, int64_t to, Real* lambda) {
        if (to == steps) {
            start_reverse(layer, grads, scratch);
            scratch.first_reset_count = first_resets(layer, b, scratch.first_reset);
            scratch.trace.count = 0;
        }
        if (plain)
            plain_steps(layer, grads, sums, scratch, b, from, to, lambda);
        else
            event_steps(layer, grads, sums, scratch, b, from, to, lambda);
        if (from > 0) return;
        if (grads.trace)
            trace_weight(layer, grads, sums.weight_t, scratch.trace,
                         plain ? listed_innovations(layer, grads, b) : recorded_innovations(scratch.trace), b);
        carrier_tails(layer, grads, sums, b);
        initial_gradients(layer, grads, scratch, b);
        finish_element_sum(layer, grads, slot, scratch, b);
    };
    for_chunks(layer, grads, sums, scratch, first, last, scan);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
