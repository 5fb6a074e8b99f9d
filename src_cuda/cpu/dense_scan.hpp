// Reverse scan with sigma' at every entry: the trajectory is recomputed, then one fused pass per step.
//
// Cost per time step: the forward step again (reading u back from memory would cost more than computing
// it), one pass for sigma', and in reverse one load of it and of the gradient and one store of lambda, the adjoints
// staying in registers for some steps; then the products of products.hpp. Scratch per thread: one to four [T, N] arrays
// of one batch element, which stay in L2; lambda takes the place of u.
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

// The rows of the steps that come next are asked for while these are made.
constexpr int64_t gradient_distance = reverse_steps;

// Rows around one step.
template <class Real>
struct Around {
    const Real *u, *m_prev, *i_new, *i_prev, *lambda, *g_z;
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
        for (int64_t j = 0; j < n; ++j) sums.graded[j] += spike_at(j) * at.g_z[j];
}

// Row t of a gradient from outside; asks for one that is needed later.
template <class Real>
SB_INLINE const Real* gradient_row(const LayerView<Real>& layer, const Strided<const Real>& from, int64_t b,
                                   int64_t t) {
    const auto row = [&](int64_t element, int64_t step) {
        return from.data + step * from.stride_t + element * from.stride_b;
    };
    const int64_t later = t - gradient_distance;
    if (later >= 0)
        prefetch_row(row(b, later), layer.width);
    else if (b + 1 < layer.batch && later + layer.steps >= 0)
        prefetch_row(row(b + 1, later + layer.steps), layer.width);
    return row(b, t);
}

// What comes back from outside for z and m of steps [from, to), into `in`.
template <class Real>
void outer_gradients(const LayerView<Real>& layer, const GradientView<Real>& grads, const ReverseScratch<Real>& scratch,
                     int64_t b, int64_t from, int64_t to, ReverseRows<Real>& in) {
    const int64_t n = layer.padded, width = layer.width;
    const Strided<const Real>&of_z = grads.g_spikes, &of_m = grads.g_membrane;
    const bool last = to == layer.steps && grads.g_m_last;
    // Whole rows are read where they lie.
    const bool in_place = of_z.data && !grads.g_active && width == n;
    in.g_z = in_place ? of_z.data + from * of_z.stride_t + b * of_z.stride_b : scratch.g_z;
    in.g_z_stride = in_place ? of_z.stride_t : n;
    in.g_m = of_m.data || last ? scratch.g_m : nullptr;
    if (!of_z.data) fill_row(scratch.g_z, (to - from) * n, Real(0));
    if (in.g_m && !of_m.data) fill_row(scratch.g_m, (to - from) * n, Real(0));
    for (int64_t t = to - 1; t >= from; --t) {
        Real *g_z = scratch.g_z + (t - from) * n, *g_m = scratch.g_m + (t - from) * n;
        const Real* row = of_z.data ? gradient_row(layer, of_z, b, t) : nullptr;
        if (row && !in_place) load_row(g_z, row, width, n);
        if (of_m.data) load_row(g_m, gradient_row(layer, of_m, b, t), width, n);
        if (!grads.g_active) continue;
        const Entries active = entries_of(layer, grads.active, b * layer.steps + t);
        const Real* g = grads.g_active + (active.count ? active.idx - grads.active.idx : 0);
        for (int64_t k = 0; k < active.count; ++k) g_z[active[k]] += g[k];
    }
    if (last) add_row(scratch.g_m + (to - 1 - from) * n, grads.g_m_last + b * layer.columns, width);
}

// sigma' of the steps from t on, `steps` of them.
template <class Real>
const Real* surrogate_rows(const LayerView<Real>& layer, const SigmaRule<Real>& rule,
                           const ReverseScratch<Real>& scratch, int64_t t, int64_t steps, const Real* u) {
    const int64_t n = layer.padded;
    if (layer.gradient == Gradient::sampled) return scratch.sigma + t * n;
    if (layer.gradient == Gradient::none) fill_row(scratch.sigma, steps * n, Real(0));
    for (int64_t k = 0; layer.gradient != Gradient::none && k < steps; ++k)
        rule.apply(rule, n, u + k * n, layer.coefficients.threshold, scratch.forward.sum, scratch.sigma + k * n);
    return scratch.sigma;
}

// Steps [from, to) of batch element b; rows holds u and gets lambda. All steps of u lie there.
template <class Real>
void dense_steps(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                 const ReverseScratch<Real>& scratch, const StepTable<Real>& table, int64_t b, int64_t from, int64_t to,
                 Real* rows) {
    const int64_t n = layer.padded, steps = layer.steps;
    const SigmaRule<Real> rule = sigma_rule(layer, layer.gradient);
    const ForwardCursor<Real>& cursor = scratch.forward;
    const bool learns =
        needs_current(grads) || grads.want_leak || grads.want_threshold || grads.want_reset || grads.want_graded;
    const Real* m_rows = layer.post == Post::none ? rows - from * n : scratch.m;
    ReverseRows<Real> in = {};
    in.mu = scratch.mu;
    in.carry = scratch.carry;
    in.bias = sums.bias;
    if (learns) {
        in.l = scratch.l;
        in.spike = scratch.spike;
        in.eta = scratch.eta;
    }
    for (int64_t end = to, begin; end > from; end = begin) {
        // Gradients of coefficients read what one step leaves; the state that enters a cut is detached.
        begin = end - 1;
        while (!learns && begin > from && end - begin < reverse_steps && !(layer.cuts && layer.cuts[begin])) --begin;
        if (layer.cuts && end < steps && layer.cuts[end]) {
            fill_row(scratch.mu, n, Real(0));
            fill_row(scratch.carry, n, Real(0));
        }
        Real* row = rows + (begin - from) * n;
        outer_gradients(layer, grads, scratch, b, begin, end, in);
        in.steps = end - begin;
        in.u = row;
        in.m = m_rows + begin * n;
        in.m_before = begin ? in.m - n : cursor.m;
        in.sigma = surrogate_rows(layer, rule, scratch, begin, end - begin, row);
        in.lambda = learns ? scratch.row : row;
        table.reverse(layer, in);
        if (!learns) continue;
        const Real* i_new = scratch.i_new + begin * n;
        coefficient_sums(layer, grads, sums, scratch,
                         {row, in.m_before, i_new, begin ? i_new - n : cursor.i, in.lambda, in.g_z});
        store_row(row, in.lambda, n);
    }
}

template <class Real>
void dense_reverse(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& slot,
                   ReverseScratch<Real>& scratch, int64_t first, int64_t last) {
    const StepTable<Real> table = find_step<Real>(layer.integrator, layer.poles, layer.pre, layer.post);
    const SlotSums<Real> sums = sums_of_scan(grads, slot, scratch);
    // A chunk has room for all steps.
    const auto scan = [&](int64_t b, int64_t from, int64_t to, Real* rows) {
        if (to == layer.steps) {
            recompute(layer, grads, table, scratch, b, rows - from * layer.padded);
            start_state(layer, b, scratch.forward.m, scratch.forward.i);
            start_reverse(layer, grads, scratch);
            if (grads.g_i_last && layer.poles == 2)
                load_row(scratch.carry, grads.g_i_last + b * layer.columns, layer.width, layer.padded);
        }
        dense_steps(layer, grads, sums, scratch, table, b, from, to, rows);
        if (from > 0) return;
        initial_gradients(layer, grads, scratch, b);
        finish_element_sum(layer, grads, slot, scratch, b);
    };
    for_chunks(layer, grads, sums, scratch, first, last, scan);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
