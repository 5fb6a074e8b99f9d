// The one neuron step: forward, partial derivatives and reverse, for every neuron of the family.
//
// Shared by the CPU and CUDA kernels. The order of the floating-point operations is upstream's, and the
// build forbids contraction to fused multiply-adds, so that spikes equal the stock library's.
// docs/how-it-works.md derives the reverse; sparse_backend/ops/reference.py is the readable twin.
#pragma once

#include "portable.hpp"
#include "spec.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// An overload for a vector of neurons makes the step work on one.
template <class Real>
SB_INLINE Real choose(bool when, Real yes, Real no) {
    return when ? yes : no;
}

template <class Real>
struct Coefficients {
    Real membrane, gain, synapse, leak, threshold, reset, graded;
};

template <class Real>
struct Step {
    Real r;      // reset caused by the previous membrane, 0 or 1
    Real i_new;  // synaptic current i'
    Real u;      // membrane compared with the threshold
    Real s;      // spike, 0 or 1
    Real m;      // membrane carried to the next step
    Real i;      // synaptic state carried to the next step
};

// Everything that one reverse step needs from the forward step and from step t + 1.
template <class Real>
struct ReverseInput {
    Real u, s, r, r_next;
    Real sigma;       // surrogate derivative, 0 where inactive
    Real g_z, g_m;    // gradients from outside on z[t] and m[t]
    Real g_i;         // gradient from outside on i_state[t]
    Real mu_next;     // adjoint of w[t + 1], 0 where the state was detached
    Real carry_next;  // adjoint that i_state[t] receives from i'[t + 1], 0 where detached
};

template <class Real>
struct ReverseOutput {
    Real l;       // adjoint of m[t]
    Real spike;   // sigma' * S: what reaches u through the spike
    Real mu;      // adjoint of w[t]
    Real eta;     // adjoint of i_state[t]
    Real lambda;  // adjoint of i'[t], the gradient of the synaptic current
    Real carry;   // adjoint of i_state[t - 1] through i'[t]
};

template <Integrator integrator, int poles, Pre pre, Post post>
struct Neuron {
    static constexpr Pre pre_reset = pre;
    static constexpr Post post_reset = post;
    static constexpr bool euler = integrator == Integrator::euler;
    static constexpr bool two_poles = poles == 2;
    static constexpr bool uses_reset = pre != Pre::none || post == Post::subtract || post == Post::zero;
    static constexpr bool is_supported = integrator == Integrator::decay
                                             ? (post != Post::value && post != Post::subtract_all) || pre == Pre::none
                                             : pre == Pre::none;

    template <class Real>
    static SB_INLINE Real reset_of(const Coefficients<Real>& c, Real m_prev) {
        return uses_reset ? choose(m_prev > c.threshold, Real(1), Real(0)) : Real(0);
    }

    template <class Real>
    static SB_INLINE Real keep_leak(Real r) {
        return pre == Pre::cut_leak ? Real(1) - r : Real(1);
    }

    template <class Real>
    static SB_INLINE Real keep_new(Real r) {
        return pre == Pre::wipe ? Real(1) - r : Real(1);
    }

    // Decay of the membrane from one step to the next.
    template <class Real>
    static SB_INLINE Real leak_factor(const Coefficients<Real>& c) {
        return integrator == Integrator::decay ? c.membrane : Real(1) - c.membrane;
    }

    // How strongly i' enters w.
    template <class Real>
    static SB_INLINE Real current_factor(const Coefficients<Real>& c) {
        return integrator == Integrator::decay ? c.gain : c.membrane;
    }

    // dm/du with the spike held fixed.
    template <class Real>
    static SB_INLINE Real through(Real s, Real r) {
        if (post == Post::zero) return Real(1) - (s - r);
        if (post == Post::value) return Real(1) - s;
        return Real(1);
    }

    // dm/ds, 0 where upstream detaches the reset.
    template <class Real>
    static SB_INLINE Real jump(const Coefficients<Real>& c, Real u) {
        if (post == Post::subtract || post == Post::subtract_all) return -c.threshold;
        if (post == Post::zero) return -u;
        if (post == Post::value) return c.reset - u;
        return Real(0);
    }

    template <class Real>
    static SB_INLINE Step<Real> forward(const Coefficients<Real>& c, Real m_prev, Real i_prev, Real current) {
        Step<Real> step;
        step.r = reset_of(c, m_prev);
        Real w;
        if (integrator == Integrator::decay) {
            step.i_new = two_poles ? c.synapse * i_prev + current : current;
            const Real m_in = pre == Pre::cut_leak ? (Real(1) - step.r) * m_prev : m_prev;
            w = c.membrane * m_in + c.gain * step.i_new;
            step.i = step.i_new;
        } else {
            step.i_new = two_poles ? i_prev + current : current;
            const Real drive = two_poles ? (c.leak - m_prev) + step.i_new : (step.i_new + c.leak) - m_prev;
            w = m_prev + c.membrane * drive;
            step.i = step.i_new + (-c.synapse) * step.i_new;
        }
        step.u = w;
        if (pre == Pre::subtract) step.u = w - step.r * c.threshold;
        if (pre == Pre::wipe) step.u = w - step.r * w;
        step.s = choose(step.u > c.threshold, Real(1), Real(0));
        step.m = step.u;
        if (post == Post::subtract) step.m = step.u - (step.s - step.r) * c.threshold;
        if (post == Post::zero) step.m = step.u - (step.s - step.r) * step.u;
        if (post == Post::value) step.m = (Real(1) - step.s) * step.u + step.s * c.reset;
        if (post == Post::subtract_all) step.m = step.u - step.s * c.threshold;
        return step;
    }

    template <class Real>
    static SB_INLINE ReverseOutput<Real> reverse(const Coefficients<Real>& c, const ReverseInput<Real>& in) {
        ReverseOutput<Real> out;
        out.l = in.g_m + leak_factor(c) * keep_leak(in.r_next) * in.mu_next;
        // Without a jump the spike's adjoint does not wait for that of m, which is a chain along time.
        const Real outside = c.graded * in.g_z;
        out.spike = in.sigma * (post == Post::none ? outside : outside + jump(c, in.u) * out.l);
        out.mu = keep_new(in.r) * (out.spike + through(in.s, in.r) * out.l);
        out.eta = in.carry_next + in.g_i;
        const Real direct = current_factor(c) * out.mu;
        if (!two_poles) {
            out.lambda = direct;
            out.carry = Real(0);
        } else if (integrator == Integrator::decay) {
            out.lambda = direct + out.eta;
            out.carry = c.synapse * out.lambda;
        } else {
            out.lambda = direct + (Real(1) - c.synapse) * out.eta;
            out.carry = out.lambda;
        }
        return out;
    }
};

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
