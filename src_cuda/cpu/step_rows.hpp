// The neuron step over one row, for every structure of the family, chosen once per call from a table.
//
// Cost per row: one pass over the neurons; forward about 10 flops per neuron, reverse about 20.
#pragma once

#include "../common/neuron_step.hpp"
#include "../common/structures.hpp"
#include "../common/surrogates.hpp"
#include "rows.hpp"
#include "wide.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
SB_INLINE Coefficients<Real> coefficients_at(const CoefficientRows<Real>& rows, int64_t j) {
    return {rows.membrane[j],  rows.gain[j],  rows.synapse[j], rows.leak[j],
            rows.threshold[j], rows.reset[j], rows.graded[j]};
}

template <class Real>
SB_INLINE Coefficients<Wide<Real>> shared_wide(const CoefficientRows<Real>& rows) {
    typedef Wide<Real> W;
    return {W(rows.membrane[0]),  W(rows.gain[0]),  W(rows.synapse[0]), W(rows.leak[0]),
            W(rows.threshold[0]), W(rows.reset[0]), W(rows.graded[0])};
}

template <class Real>
SB_INLINE Coefficients<Wide<Real>> wide_at(const CoefficientRows<Real>& rows, int64_t j) {
    typedef Wide<Real> W;
    return {W::load(rows.membrane + j),  W::load(rows.gain + j),  W::load(rows.synapse + j), W::load(rows.leak + j),
            W::load(rows.threshold + j), W::load(rows.reset + j), W::load(rows.graded + j)};
}

// In place on m and i; u is written. The bits are made while the neurons are at hand: near is |u - threshold| < limit,
// or with wants_near false all of them. uniform: coefficients that all neurons share stay in registers.
template <class N, bool uniform, bool wants_near, bool wants_reset, class Real>
SB_INLINE void step_words(const CoefficientRows<Real>& rows, int64_t n, const Real* SB_RESTRICT current,
                          Real* SB_RESTRICT m, Real* SB_RESTRICT i, Real* SB_RESTRICT u, Real limit,
                          const StepBits& bits) {
    typedef Wide<Real> W;
    const Coefficients<W> shared = shared_wide(rows);
    const W limits(limit);
    for (int64_t from = 0; from < n; from += 64) {
        const int64_t size = n - from < 64 ? n - from : 64;
        uint64_t fired = 0, near = 0, reset = 0;
        for (int64_t k = 0; k < size; k += W::count) {
            const int64_t j = from + k;
            const Coefficients<W> c = uniform ? shared : wide_at(rows, j);
            const W m_prev = W::load(m + j), i_prev = N::two_poles ? W::load(i + j) : W(Real(0));
            const Step<W> step = N::forward(c, m_prev, i_prev, W::load(current + j));
            store(step.u, u + j);
            store(step.m, m + j);
            if (N::two_poles) store(step.i, i + j);
            if (wants_reset && N::uses_reset) reset |= uint64_t(greater_bits(m_prev, c.threshold)) << k;
            fired |= uint64_t(greater_bits(step.u, c.threshold)) << k;
            if (wants_near) near |= uint64_t(greater_bits(limits, magnitude(step.u - c.threshold))) << k;
        }
        const uint64_t valid = from + size == n ? bits.last : ~uint64_t(0);
        bits.fired[from / 64] = fired & valid;
        bits.near[from / 64] = wants_near ? near & valid : valid;
        bits.reset[from / 64] = reset & valid;
    }
}

template <class N, bool wants_near, bool wants_reset, class Real>
SB_INLINE void step_kind(const LayerView<Real>& layer, const Real* current, Real* m, Real* i, Real* u, Real limit,
                         const StepBits& bits) {
    if (layer.uniform)
        step_words<N, true, wants_near, wants_reset>(layer.coefficients, layer.padded, current, m, i, u, limit, bits);
    else
        step_words<N, false, wants_near, wants_reset>(layer.coefficients, layer.padded, current, m, i, u, limit, bits);
}

template <class N, class Real>
void step_row(const LayerView<Real>& layer, const Real* current, Real* m, Real* i, Real* u, Real limit,
              const StepBits& bits) {
    const bool near = layer.want_active && limit < Real(__builtin_inf());
    if (layer.want_resets)
        step_kind<N, true, true>(layer, current, m, i, u, limit, bits);
    else if (near)
        step_kind<N, true, false>(layer, current, m, i, u, limit, bits);
    else
        step_kind<N, false, false>(layer, current, m, i, u, limit, bits);
}

// The step again where its bits are known: u and m are rows of a trajectory, of which m_prev is the one before. Without
// a reset at the end of a step m is u.
template <class N, bool uniform, class Real>
SB_INLINE void trajectory_pass(const CoefficientRows<Real>& rows, int64_t n, const Real* SB_RESTRICT current,
                               const Real* SB_RESTRICT m_prev, Real* SB_RESTRICT i, Real* SB_RESTRICT u,
                               Real* SB_RESTRICT m) {
    typedef Wide<Real> W;
    const Coefficients<W> shared = shared_wide(rows);
    for (int64_t j = 0; j < n; j += W::count) {
        const Coefficients<W> c = uniform ? shared : wide_at(rows, j);
        const W i_prev = N::two_poles ? W::load(i + j) : W(Real(0));
        const Step<W> step = N::forward(c, W::load(m_prev + j), i_prev, W::load(current + j));
        store(step.u, u + j);
        if (N::post_reset != Post::none) store(step.m, m + j);
        if (N::two_poles) store(step.i, i + j);
    }
}

template <class N, class Real>
void trajectory_row(const LayerView<Real>& layer, const Real* current, const Real* m_prev, Real* i, Real* u, Real* m) {
    if (layer.uniform)
        trajectory_pass<N, true>(layer.coefficients, layer.padded, current, m_prev, i, u, m);
    else
        trajectory_pass<N, false>(layer.coefficients, layer.padded, current, m_prev, i, u, m);
}

// i' of the step to come, from the state before it (only needed for coefficient gradients).
template <class N, class Real>
void current_row(const CoefficientRows<Real>& rows, int64_t n, const Real* SB_RESTRICT current,
                 const Real* SB_RESTRICT m, const Real* SB_RESTRICT i, Real* SB_RESTRICT i_new) {
    for (int64_t j = 0; j < n; ++j) i_new[j] = N::forward(coefficients_at(rows, j), m[j], i[j], current[j]).i_new;
}

// One step of the forward-mode sensitivities M = dm/dp, Is = di/dp for one parameter; U = du/dp is written.
template <class N, class Real>
void carrier_row(const CoefficientRows<Real>& rows, Carrier parameter, int64_t n, const Real* SB_RESTRICT current,
                 const Real* SB_RESTRICT m_prev, const Real* SB_RESTRICT i_prev, Real* SB_RESTRICT sense_m,
                 Real* SB_RESTRICT sense_i, Real* SB_RESTRICT sense_u) {
    constexpr bool euler = N::euler;
    const Real of_membrane = parameter == carrier_membrane ? Real(1) : Real(0);
    const Real of_gain = parameter == carrier_gain ? Real(1) : Real(0);
    const Real of_synapse = parameter == carrier_synapse ? Real(1) : Real(0);
    for (int64_t j = 0; j < n; ++j) {
        const Coefficients<Real> c = coefficients_at(rows, j);
        const Step<Real> step = N::forward(c, m_prev[j], i_prev[j], current[j]);
        const Real keep = N::keep_leak(step.r);
        const Real drive = euler ? (c.leak - m_prev[j]) + step.i_new : keep * m_prev[j];
        Real inner = Real(0);
        if (N::two_poles) {
            inner = euler ? sense_i[j] : c.synapse * sense_i[j] + of_synapse * i_prev[j];
            sense_i[j] = euler ? (Real(1) - c.synapse) * inner - of_synapse * step.i_new : inner;
        }
        const Real w = N::leak_factor(c) * keep * sense_m[j] + N::current_factor(c) * inner + of_membrane * drive +
                       (euler ? Real(0) : of_gain * step.i_new);
        sense_u[j] = N::keep_new(step.r) * w;
        sense_m[j] = N::through(step.s, step.r) * sense_u[j];
    }
}

// Steps in a row of one batch element, whose rows are n entries apart where no stride is named.
template <class Real>
struct ReverseRows {
    int64_t steps;
    const Real *u, *m, *m_before;   // trajectory; m_before: the membrane that enters the first of the steps
    const Real *sigma, *g_z, *g_m;  // g_m: null for zeros
    int64_t g_z_stride;
    Real *mu, *carry;  // in: from the step after the last (zero where detached); out: of the first step
    Real* lambda;      // may lie where u does
    Real* bias;        // sum of lambda
    Real *l, *spike, *eta;
};

constexpr int reverse_vectors = 2;  // in a tile, with their mu, carry and bias

// The adjoints of one tile, last step first. l, spike and eta, of one step, are written only where gradients of
// coefficients read them. uniform: as in step_words.
template <class N, bool keeps, bool uniform, int vectors, class Real>
SB_INLINE void reverse_tile(const CoefficientRows<Real>& rows, int64_t n, int64_t column,
                            const ReverseRows<Real>& shared) {
    typedef Wide<Real> W;
    const ReverseRows<Real> in = shared;
    const W zero(Real(0)), one(Real(1));
    const Coefficients<W> first = shared_wide(rows);
    W mu[vectors], carry[vectors], bias[vectors];
#pragma GCC unroll 2
    for (int k = 0; k < vectors; ++k) {
        const int64_t j = column + k * W::count;
        mu[k] = W::load(in.mu + j);
        carry[k] = N::two_poles ? W::load(in.carry + j) : zero;
        bias[k] = W::load(in.bias + j);
    }
    for (int64_t t = in.steps - 1; t >= 0; --t) {
        const Real* m_prev = t ? in.m + (t - 1) * n : in.m_before;
#pragma GCC unroll 2
        for (int k = 0; k < vectors; ++k) {
            const int64_t j = column + k * W::count;
            const Coefficients<W> c = uniform ? first : wide_at(rows, j);
            ReverseInput<W> step;
            step.u = W::load(in.u + t * n + j);
            step.s = choose(step.u > c.threshold, one, zero);
            step.r = N::uses_reset ? N::reset_of(c, W::load(m_prev + j)) : zero;
            step.r_next = N::uses_reset ? N::reset_of(c, W::load(in.m + t * n + j)) : zero;
            step.sigma = W::load(in.sigma + t * n + j);
            step.g_z = W::load(in.g_z + t * in.g_z_stride + j);
            step.g_m = in.g_m ? W::load(in.g_m + t * n + j) : zero;
            step.g_i = zero;
            step.mu_next = mu[k];
            step.carry_next = carry[k];
            const ReverseOutput<W> out = N::reverse(c, step);
            mu[k] = out.mu;
            carry[k] = out.carry;
            bias[k] = bias[k] + out.lambda;
            store(out.lambda, in.lambda + t * n + j);
            if (keeps) {
                store(out.l, in.l + j);
                store(out.spike, in.spike + j);
                if (N::two_poles) store(out.eta, in.eta + j);
            }
        }
    }
#pragma GCC unroll 2
    for (int k = 0; k < vectors; ++k) {
        const int64_t j = column + k * W::count;
        store(mu[k], in.mu + j);
        if (N::two_poles) store(carry[k], in.carry + j);
        store(bias[k], in.bias + j);
    }
}

template <class N, bool keeps, bool uniform, class Real>
SB_INLINE void reverse_pass(const LayerView<Real>& layer, const ReverseRows<Real>& in) {
    for_tiles<Real, reverse_vectors>(layer.padded, [&](int64_t column, auto tile) {
        reverse_tile<N, keeps, uniform, decltype(tile)::count>(layer.coefficients, layer.padded, column, in);
    });
}

// The steps in reverse; of one step l, spike and eta are written too where there is room for them.
template <class N, class Real>
void reverse_rows(const LayerView<Real>& layer, const ReverseRows<Real>& in) {
    if (in.l)
        reverse_pass<N, true, false>(layer, in);
    else if (layer.uniform)
        reverse_pass<N, false, true>(layer, in);
    else
        reverse_pass<N, false, false>(layer, in);
}

template <class Real>
struct StepTable {
    void (*step)(const LayerView<Real>&, const Real*, Real*, Real*, Real*, Real limit, const StepBits&);
    void (*trajectory)(const LayerView<Real>&, const Real*, const Real*, Real*, Real*, Real*);
    void (*current)(const CoefficientRows<Real>&, int64_t, const Real*, const Real*, const Real*, Real*);
    void (*carrier)(const CoefficientRows<Real>&, Carrier, int64_t, const Real*, const Real*, const Real*, Real*, Real*,
                    Real*);
    void (*reverse)(const LayerView<Real>&, const ReverseRows<Real>&);
};

template <class Real>
struct TableOf {
    template <Integrator integrator, int poles, Pre pre, Post post>
    StepTable<Real> run() const {
        typedef Neuron<integrator, poles, pre, post> N;
        if constexpr (N::is_supported)
            return {step_row<N, Real>, trajectory_row<N, Real>, current_row<N, Real>, carrier_row<N, Real>,
                    reverse_rows<N, Real>};
        else
            return {};
    }
};

// The row functions of a structure; all null where the structure is not supported.
template <class Real>
StepTable<Real> find_step(Integrator integrator, int poles, Pre pre, Post post) {
    return with_structure(integrator, poles, pre, post, TableOf<Real>());
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
