// Reverse scan by innovations: between events every adjoint only decays.
//
// Cost per time step: one pass of the row (its decay and the bias sum), one more for a second pole or a gain, the
// products of products.hpp, and work per event: active entries (the surrogate), spiked entries and resets (where the
// carried state was cut). Nothing of size T x N is read, except a gradient on the membrane or the spikes that arrives
// dense.
#pragma once

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
        for (int64_t k = 0; k < next.count; ++k) l[next.idx[k]] = Real(0);
    }
    if (t == layer.steps - 1 && grads.g_m_last) add_row(l, grads.g_m_last + b * width, width);
    if (grads.g_membrane.data) {
        const Real* g = grads.g_membrane.data + t * grads.g_membrane.stride_t + b * grads.g_membrane.stride_b;
        if (t >= prefetch_distance) prefetch_row(g - prefetch_distance * grads.g_membrane.stride_t, width);
        add_row(l, g, width);
    }
}

template <int poles, bool euler, class Real>
SB_INLINE void lambda_row(const LayerView<Real>& layer, ReverseScratch<Real>& scratch, Real* SB_RESTRICT bias) {
    const Real* SB_RESTRICT factor = euler ? layer.coefficients.membrane : layer.coefficients.gain;
    const Real *SB_RESTRICT mu = scratch.mu, *SB_RESTRICT synapse = layer.coefficients.synapse;
    Real *SB_RESTRICT lambda = scratch.lambda, *SB_RESTRICT carry = scratch.carry;
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
                     Real* bias, int64_t b, int64_t t, bool alive) {
    const bool euler = layer.integrator == Integrator::euler;
    if (layer.poles == 1)
        return euler ? lambda_row<1, true>(layer, scratch, bias) : lambda_row<1, false>(layer, scratch, bias);
    if (!alive) fill_row(scratch.carry, layer.padded, Real(0));
    if (t == layer.steps - 1 && grads.g_i_last) add_row(scratch.carry, grads.g_i_last + b * layer.width, layer.width);
    if (euler)
        lambda_row<2, true>(layer, scratch, bias);
    else
        lambda_row<2, false>(layer, scratch, bias);
}

// Final-state gradients meet the carriers' final values.
template <class Real>
void carrier_tails(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                   int64_t b) {
    const int64_t width = layer.width;
    const bool wanted[] = {grads.want_membrane, grads.want_gain, grads.want_synapse};
    Real* targets[] = {sums.membrane, sums.gain, sums.synapse};
    for (int p = 0; p < 3; ++p) {
        if (!wanted[p]) continue;
        const int64_t k = carrier_index(layer.carriers, Carrier(1 << p));
        const int64_t at = (k * layer.batch + b) * width;
        if (grads.g_m_last)
            for (int64_t j = 0; j < width; ++j)
                targets[p][j] += grads.g_m_last[b * width + j] * layer.carrier_m_last[at + j];
        if (grads.g_i_last && layer.poles == 2)
            for (int64_t j = 0; j < width; ++j)
                targets[p][j] += grads.g_i_last[b * width + j] * layer.carrier_i_last[at + j];
    }
}

// Gradient of the initial state; mu and carry are those of step 0.
template <class Real>
void initial_gradients(const LayerView<Real>& layer, const GradientView<Real>& grads,
                       const ReverseScratch<Real>& scratch, int64_t b) {
    const int64_t width = layer.width;
    const bool detached = layer.cuts && layer.cuts[0];
    for (int64_t j = 0; grads.d_m0 && j < width; ++j) {
        const Real m = layer.m0 ? layer.m0[b * width + j] : Real(0);
        const bool cut = layer.pre == Pre::cut_leak && m > layer.coefficients.threshold[j];
        grads.d_m0[b * width + j] = detached || cut ? Real(0) : scratch.decay[j] * scratch.mu[j];
    }
    for (int64_t j = 0; grads.d_i0 && j < width; ++j)
        grads.d_i0[b * width + j] = detached || layer.poles == 1 ? Real(0) : scratch.carry[j];
}

template <class Real>
void sparse_reverse(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                    ReverseScratch<Real>& scratch, int64_t b) {
    const int64_t n = layer.padded, steps = layer.steps, row0 = b * steps;
    const int64_t first_entry = grads.active.ptr ? grads.active.ptr[row0] : 0;
    if (grads.active.ptr) entry_sigmas(layer, grads, scratch, first_entry, grads.active.ptr[row0 + steps]);
    scratch.first_reset_count = first_resets(layer, b, scratch.first_reset);
    scratch.trace.count = 0;
    fill_row(scratch.mu, n, Real(0));
    fill_row(scratch.carry, n, Real(0));
    fill_row(scratch.current_sum, n, Real(0));
    const bool unit_gain = has_unit_gain(layer), simple = adds_only(layer, grads);
    Real* mu = scratch.mu;
    scratch.l = mu;  // the adjoint of m becomes that of w where it lies
    for (int64_t t = steps - 1; t >= 0; --t) {
        const bool alive = t + 1 < steps && !(layer.cuts && layer.cuts[t + 1]);
        const Entries active = entries_of(grads.active, row0 + t), spiked = entries_of(grads.spikes, row0 + t);
        const Entries resets = resets_at(layer, grads, scratch, b, t);
        membrane_adjoint(layer, grads, scratch, b, t, alive, unit_gain ? sums.bias : nullptr);
        const Real* add = scratch.entry_add;
        if (simple)
            add = active.count ? scratch.entry_sigma + (active.idx - grads.active.idx - first_entry) : nullptr;
        else
            active_entries(layer, grads, sums, scratch, b, t, active, first_entry);
        through_reset(layer, grads, sums, scratch, spiked, resets);
        for (int64_t k = 0; k < active.count; ++k) mu[active.idx[k]] += add[k];
        if (layer.pre == Pre::wipe)
            for (int64_t k = 0; k < resets.count; ++k) mu[resets.idx[k]] = Real(0);
        if (grads.trace) record_innovations(layer, scratch.trace, t, mu, scratch.plain);
        if (grads.want_threshold && layer.pre == Pre::subtract)
            for (int64_t k = 0; k < resets.count; ++k) sums.threshold[resets.idx[k]] -= mu[resets.idx[k]];
        if (grads.want_graded && grads.g_spikes.data) {
            const Real* g = grads.g_spikes.data + t * grads.g_spikes.stride_t + b * grads.g_spikes.stride_b;
            for (int64_t k = 0; k < spiked.count; ++k) sums.graded[spiked.idx[k]] += g[spiked.idx[k]];
        }
        if (grads.want_leak) add_row(sums.leak, mu, n);
        if (!unit_gain) current_adjoint(layer, grads, scratch, sums.bias, b, t, alive);
        add_products(layer, grads, sums, scratch, b, t, unit_gain ? mu : scratch.lambda);
    }
    if (unit_gain) add_row(sums.bias, mu, n);
    if (grads.trace) trace_weight(layer, grads, sums.weight_t, scratch.trace, b);
    carrier_tails(layer, grads, sums, b);
    initial_gradients(layer, grads, scratch, b);
    if (grads.d_current_sum) store_row(grads.d_current_sum + b * layer.width, scratch.current_sum, layer.width);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
