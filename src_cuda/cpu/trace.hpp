// Weight gradient in trace form: innovations times the filtered input.
//
// lambda is a linear filter of the innovations q, so the filter can run on the input instead, forward in time:
// dW = sum_t q[t] x^[t]^T. Scalar decays only. Cost per time step: one pass over N_in for the filter, and one row of
// N_in per non-zero of q; the spike form costs a row of N per non-zero of x.
#pragma once

#include "masks.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Records q[t] = mu[t] minus what plain decay would have left; exactly zero where nothing happened.
template <class Real>
SB_INLINE void record_innovations(const LayerView<Real>& layer, TraceScratch<Real>& trace, int64_t t, const Real* mu,
                                  const Real* plain) {
    const int64_t n = layer.padded;
    Real* SB_RESTRICT q = trace.difference;
    for (int64_t j = 0; j < n; ++j) q[j] = mu[j] - plain[j];
    trace.begin[t] = trace.count;
    for (int64_t j = 0; j < n; j += 16)
        if (const uint32_t bits = nonzero16(q + j)) {
            const int64_t added = append_bits(bits, int32_t(j), trace.idx + trace.count);
            for (int64_t e = trace.count; e < trace.count + added; ++e) trace.q[e] = q[trace.idx[e]];
            trace.count += added;
        }
    trace.end[t] = trace.count;
}

// The innovations of one batch element: entries [begin[t], end[t]) of idx and q.
template <class Real>
struct Innovations {
    const int64_t *begin, *end;
    const int32_t* idx;
    const Real* q;
};

template <class Real>
SB_INLINE Innovations<Real> recorded_innovations(const TraceScratch<Real>& trace) {
    return {trace.begin, trace.end, trace.idx, trace.q};
}

// Of a plain layer (sparse_scan.hpp): what its active entries add, and nothing else.
template <class Real>
SB_INLINE Innovations<Real> listed_innovations(const LayerView<Real>& layer, const GradientView<Real>& grads,
                                               int64_t b) {
    const int64_t* ptr = grads.active.ptr + b * layer.steps;
    return {ptr, ptr + 1, grads.active.idx, grads.entry_values};
}

// x^[t] from x^[t - 1]: inner is the synaptic pole (two poles only), outer the membrane pole.
template <class Real>
SB_INLINE void filter_input(const LayerView<Real>& layer, const GradientView<Real>& grads, TraceScratch<Real>& trace,
                            int64_t b, int64_t t) {
    const int64_t n = trace.inputs, row = b * layer.steps + t;
    const bool euler = layer.integrator == Integrator::euler;
    const Real synapse = layer.coefficients.synapse[0], membrane = layer.coefficients.membrane[0];
    const Real gain = euler ? membrane : layer.coefficients.gain[0];
    const Real rho = euler ? Real(1) - membrane : membrane;
    const Real alpha = euler ? Real(1) - synapse : synapse;
    Real *SB_RESTRICT outer = trace.outer, *SB_RESTRICT inner = layer.poles == 2 ? trace.inner : trace.outer;
    const Real first = layer.poles == 2 ? alpha : rho;
    for (int64_t j = 0; j < n; ++j) inner[j] *= first;
    if (grads.x.data) {
        add_row(inner, grads.x.data + t * grads.x.stride_t + b * grads.x.stride_b, layer.inputs);
    } else {
        const Real* val = layer.input.val;
        for (int64_t e = layer.input.ptr[row]; e < layer.input.ptr[row + 1]; ++e)
            inner[layer.input.idx[e]] += val ? val[e] : Real(1);
    }
    if (layer.poles == 2)
        for (int64_t j = 0; j < n; ++j) outer[j] = rho * outer[j] + gain * inner[j];
}

template <class Real>
void trace_weight(const LayerView<Real>& layer, const GradientView<Real>& grads, Real* weight,
                  TraceScratch<Real>& trace, const Innovations<Real>& found, int64_t b) {
    const int64_t n = trace.inputs, width = layer.width;
    const bool euler = layer.integrator == Integrator::euler, two_poles = layer.poles == 2;
    // With one pole the gain is left to q; with two it is inside the filter.
    const Real gain = two_poles ? Real(1) : euler ? layer.coefficients.membrane[0] : layer.coefficients.gain[0];
    fill_row(trace.outer, n, Real(0));
    fill_row(trace.inner, n, Real(0));
    for (int64_t t = 0; t < layer.steps; ++t) {
        if (layer.cuts && layer.cuts[t]) {
            fill_row(trace.outer, n, Real(0));
            fill_row(trace.inner, n, Real(0));
        }
        filter_input(layer, grads, trace, b, t);
        for (int64_t e = found.begin[t]; e < found.end[t]; ++e)
            if (found.idx[e] < width) add_scaled_row(weight + found.idx[e] * n, trace.outer, gain * found.q[e], n);
    }
    if (!two_poles || !grads.g_i_last) return;
    // The gradient on the final synaptic state enters lambda directly, past the membrane pole.
    const Real direct = euler ? Real(1) - layer.coefficients.synapse[0] : Real(1);
    for (int64_t j = 0; j < width; ++j)
        add_scaled_row(weight + j * n, trace.inner, direct * grads.g_i_last[b * layer.columns + j], n);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
