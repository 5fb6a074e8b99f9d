// Reverse scan with sigma' at every entry: the trajectory is recomputed, then one fused pass per step.
//
// Cost per time step: the forward step again (reading u back from memory would cost more than computing
// it), about five passes over the row in reverse, and the products of products.hpp. Scratch per thread:
// one to four [T, N] arrays of one batch element, which stay in L2; lambda takes the place of u.
#pragma once

#include "sparse_scan.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
SB_INLINE bool needs_current(const GradientView<Real>& grads) {
    return grads.want_membrane || grads.want_gain || grads.want_synapse;
}

template <class Real>
void recompute(const LayerView<Real>& layer, const GradientView<Real>& grads, const StepTable<Real>& table,
               ReverseScratch<Real>& scratch, int64_t b, Real* u_rows) {
    const int64_t n = layer.padded;
    const SigmaRule<Real> rule = sigma_rule(layer, layer.gradient);
    const Feed<Real> feed = find_feed(layer);
    ForwardCursor<Real>& cursor = scratch.forward;
    start_state(layer, b, cursor.m, cursor.i);
    if (layer.gradient == Gradient::sampled) start_sampling(layer, b, cursor.sum);
    const Real* m_prev = cursor.m;
    for (int64_t t = 0; t < layer.steps; ++t) {
        Real *u = u_rows + t * n, *m = layer.post == Post::none ? u : scratch.m + t * n;
        input_row(layer, feed, b, t, t == 0, cursor.current);
        if (needs_current(grads))
            table.current(layer.coefficients, n, cursor.current, m_prev, cursor.i, scratch.i_new + t * n);
        table.trajectory(layer, cursor.current, m_prev, cursor.i, u, m);
        m_prev = m;
        if (layer.gradient == Gradient::sampled)
            rule.apply(rule, n, u, layer.coefficients.threshold, cursor.sum, scratch.sigma + t * n);
    }
}

// Rows of the trajectory around one step.
template <class Real>
struct Around {
    const Real *u, *m, *m_prev, *i_new, *i_prev, *lambda;
};

template <class Real>
void coefficient_sums(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                      const ReverseScratch<Real>& scratch, const Around<Real>& at) {
    const int64_t n = layer.padded;
    const CoefficientRows<Real>& c = layer.coefficients;
    const bool euler = layer.integrator == Integrator::euler, two_poles = layer.poles == 2;
    const Real *SB_RESTRICT mu = scratch.mu, *SB_RESTRICT l = scratch.l, *SB_RESTRICT theta = c.threshold;
    const auto reset_at = [&](int64_t j) { return at.m_prev[j] > theta[j] ? Real(1) : Real(0); };
    const auto spike_at = [&](int64_t j) { return at.u[j] > theta[j] ? Real(1) : Real(0); };
    if (grads.want_membrane && euler)
        for (int64_t j = 0; j < n; ++j) sums.membrane[j] += mu[j] * ((c.leak[j] - at.m_prev[j]) + at.i_new[j]);
    else if (grads.want_membrane && layer.pre == Pre::cut_leak)
        for (int64_t j = 0; j < n; ++j) sums.membrane[j] += mu[j] * ((Real(1) - reset_at(j)) * at.m_prev[j]);
    else if (grads.want_membrane)
        for (int64_t j = 0; j < n; ++j) sums.membrane[j] += mu[j] * at.m_prev[j];
    if (grads.want_gain && !euler)
        for (int64_t j = 0; j < n; ++j) sums.gain[j] += mu[j] * at.i_new[j];
    if (grads.want_synapse && two_poles && euler)
        for (int64_t j = 0; j < n; ++j) sums.synapse[j] -= scratch.eta[j] * at.i_new[j];
    if (grads.want_synapse && two_poles && !euler)
        for (int64_t j = 0; j < n; ++j) sums.synapse[j] += at.lambda[j] * at.i_prev[j];
    if (grads.want_leak) add_row(sums.leak, mu, n);
    if (grads.want_threshold) {
        for (int64_t j = 0; j < n; ++j) sums.threshold[j] -= scratch.spike[j];
        if (layer.pre == Pre::subtract)
            for (int64_t j = 0; j < n; ++j) sums.threshold[j] -= reset_at(j) * mu[j];
        if (layer.post == Post::subtract)
            for (int64_t j = 0; j < n; ++j) sums.threshold[j] -= (spike_at(j) - reset_at(j)) * l[j];
        if (layer.post == Post::subtract_all)
            for (int64_t j = 0; j < n; ++j) sums.threshold[j] -= spike_at(j) * l[j];
    }
    if (grads.want_reset && layer.post == Post::value)
        for (int64_t j = 0; j < n; ++j) sums.reset[j] += spike_at(j) * l[j];
    if (grads.want_graded)
        for (int64_t j = 0; j < n; ++j) sums.graded[j] += spike_at(j) * scratch.g_z[j];
}

// Gradients from outside on z[t], m[t] and i[t] as padded rows. A row that nothing reaches before the last step is
// cleared in the first two calls.
template <class Real>
void outer_gradients(const LayerView<Real>& layer, const GradientView<Real>& grads, ReverseScratch<Real>& scratch,
                     int64_t b, int64_t t) {
    const int64_t n = layer.padded, width = layer.width;
    const bool last = t == layer.steps - 1;
    const auto load = [&](Real* to, const Strided<const Real>& from, bool changed) {
        if (from.data) {
            const Real* source = from.data + t * from.stride_t + b * from.stride_b;
            if (t >= prefetch_distance) prefetch_row(source - prefetch_distance * from.stride_t, width);
            load_row(to, source, width, n);
        } else if (changed) {
            fill_row(to, n, Real(0));
        }
    };
    load(scratch.g_z, grads.g_spikes, last || grads.g_active);
    load(scratch.g_m, grads.g_membrane, t >= layer.steps - 2);
    if (grads.g_active) {
        const Entries active = entries_of(layer, grads.active, b * layer.steps + t);
        const Real* g = grads.g_active + (active.count ? active.idx - grads.active.idx : 0);
        for (int64_t k = 0; k < active.count; ++k) scratch.g_z[active[k]] += g[k];
    }
    if (last && grads.g_m_last) add_row(scratch.g_m, grads.g_m_last + b * layer.columns, width);
    if (t >= layer.steps - 2) fill_row(scratch.g_i, n, Real(0));
    if (last && grads.g_i_last && layer.poles == 2) add_row(scratch.g_i, grads.g_i_last + b * layer.columns, width);
}

// Steps [from, to) of batch element b; rows holds u and gets lambda. All steps of u lie there.
template <class Real>
void dense_steps(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                 ReverseScratch<Real>& scratch, const StepTable<Real>& table, int64_t b, int64_t from, int64_t to,
                 Real* rows) {
    const int64_t n = layer.padded, steps = layer.steps;
    const SigmaRule<Real> rule = sigma_rule(layer, layer.gradient);
    const ForwardCursor<Real>& cursor = scratch.forward;
    const bool learns =
        needs_current(grads) || grads.want_leak || grads.want_threshold || grads.want_reset || grads.want_graded;
    const Real* m_rows = layer.post == Post::none ? rows - from * n : scratch.m;
    for (int64_t t = to - 1; t >= from; --t) {
        if (layer.cuts && t + 1 < steps && layer.cuts[t + 1]) {
            fill_row(scratch.mu, n, Real(0));
            fill_row(scratch.carry, n, Real(0));
        }
        // Gradients of coefficients read u after lambda is made.
        Real *row = rows + (t - from) * n, *lambda = learns ? scratch.row : row;
        const Around<Real> at = {row,
                                 m_rows + t * n,
                                 t ? m_rows + (t - 1) * n : cursor.m,
                                 scratch.i_new + t * n,
                                 t ? scratch.i_new + (t - 1) * n : cursor.i,
                                 lambda};
        outer_gradients(layer, grads, scratch, b, t);
        Real* sigma = scratch.sigma;
        if (layer.gradient == Gradient::sampled)
            sigma += t * n;
        else if (layer.gradient == Gradient::none)
            fill_row(sigma, n, Real(0));
        else
            rule.apply(rule, n, at.u, layer.coefficients.threshold, cursor.sum, sigma);
        table.reverse(layer, {at.u, at.m_prev, at.m, sigma, scratch.g_z, scratch.g_m, scratch.g_i, scratch.mu,
                              scratch.carry, lambda, scratch.l, scratch.spike, scratch.eta, sums.bias, learns});
        if (!learns) continue;
        coefficient_sums(layer, grads, sums, scratch, at);
        store_row(row, lambda, n);
    }
}

template <class Real>
void dense_reverse(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                   ReverseScratch<Real>& scratch, int64_t first, int64_t last) {
    const StepTable<Real> table = find_step<Real>(layer.integrator, layer.poles, layer.pre, layer.post);
    // A chunk has room for all steps.
    const auto scan = [&](int64_t b, int64_t from, int64_t to, Real* rows) {
        if (to == layer.steps) {
            recompute(layer, grads, table, scratch, b, rows - from * layer.padded);
            start_state(layer, b, scratch.forward.m, scratch.forward.i);
            start_reverse(layer, grads, scratch, b);
        }
        dense_steps(layer, grads, sums, scratch, table, b, from, to, rows);
        if (from == 0) initial_gradients(layer, grads, scratch, b);
    };
    for_chunks(layer, grads, sums, scratch, first, last, scan);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
