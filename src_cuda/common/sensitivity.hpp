// Forward-mode sensitivities of the state to one learnable decay coefficient, with the spikes held fixed.
//
// docs/how-it-works.md derives the recurrence: M = dm/dp and I = di/dp are carried beside the state, U = du/dp is
// what the gradient needs at active entries.
#pragma once

#include "neuron_step.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
struct Sensitivity {
    Real m, i;
};

// Advances M and I by the step that led from (m_prev, i_prev); returns U.
template <class Neuron, class Real>
SB_INLINE Real advance_sensitivity(const Coefficients<Real>& c, const Step<Real>& step, Real m_prev, Real i_prev,
                                   Carrier parameter, Sensitivity<Real>& sense) {
    const Real keep = Neuron::keep_leak(step.r);
    Real inner = Real(0), direct = Real(0);
    if (Neuron::two_poles) {
        const bool own = parameter == carrier_synapse;
        if (Neuron::euler) {
            inner = sense.i;
            sense.i = (Real(1) - c.synapse) * inner - (own ? step.i_new : Real(0));
        } else {
            inner = c.synapse * sense.i + (own ? i_prev : Real(0));
            sense.i = inner;
        }
    }
    if (parameter == carrier_membrane) direct = Neuron::euler ? (c.leak - m_prev) + step.i_new : keep * m_prev;
    if (parameter == carrier_gain && !Neuron::euler) direct = step.i_new;
    const Real w = Neuron::leak_factor(c) * keep * sense.m + Neuron::current_factor(c) * inner + direct;
    const Real u = Neuron::keep_new(step.r) * w;
    sense.m = Neuron::through(step.s, step.r) * u;
    return u;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
