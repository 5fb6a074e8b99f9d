// Surrogate derivatives of one row and the choice of its active entries.
//
// Cost per row: one vectorised pass for the rational surrogates; exp and tanh are library calls per entry.
#pragma once

#include "../common/random.hpp"
#include "../common/surrogates.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <Surrogate kind, class Real>
void derivative_row(const Real* SB_RESTRICT x, int64_t n, SurrogateConstants<Real> constants, Real window,
                    Real* SB_RESTRICT sigma) {
    for (int64_t j = 0; j < n; ++j) {
        const Real value = derivative<kind>(x[j], constants);
        sigma[j] = absolute(x[j]) < window ? value : Real(0);
    }
}

// A surrogate with its constants, ready to be applied to rows.
template <class Real>
struct SigmaRule {
    void (*derivative)(const Real*, int64_t, SurrogateConstants<Real>, Real, Real*);
    SurrogateConstants<Real> constants;
    Real window;
    Gradient gradient;
    Real level;
};

template <class Real>
SigmaRule<Real> sigma_rule(const LayerView<Real>& layer) {
    SigmaRule<Real> rule;
    rule.constants = surrogate_constants<Real>(layer.surrogate, layer.surrogate_p0, layer.surrogate_p1);
    rule.window = Real(layer.surrogate_window);
    rule.gradient = layer.gradient;
    rule.level = Real(layer.level);
    rule.derivative = derivative_row<Surrogate::zero, Real>;
    switch (layer.surrogate) {
    case Surrogate::zero: break;
    case Surrogate::atan: rule.derivative = derivative_row<Surrogate::atan, Real>; break;
    case Surrogate::fast_sigmoid: rule.derivative = derivative_row<Surrogate::fast_sigmoid, Real>; break;
    case Surrogate::sigmoid: rule.derivative = derivative_row<Surrogate::sigmoid, Real>; break;
    case Surrogate::triangular: rule.derivative = derivative_row<Surrogate::triangular, Real>; break;
    case Surrogate::straight_through: rule.derivative = derivative_row<Surrogate::straight_through, Real>; break;
    case Surrogate::sfs: rule.derivative = derivative_row<Surrogate::sfs, Real>; break;
    case Surrogate::triangle: rule.derivative = derivative_row<Surrogate::triangle, Real>; break;
    case Surrogate::tanh: rule.derivative = derivative_row<Surrogate::tanh, Real>; break;
    case Surrogate::circ: rule.derivative = derivative_row<Surrogate::circ, Real>; break;
    case Surrogate::heavi_erfc: rule.derivative = derivative_row<Surrogate::heavi_erfc, Real>; break;
    }
    return rule;
}

// The sampling accumulators of one batch element at t = 0.
template <class Real>
void start_sampling(const LayerView<Real>& layer, int64_t b, Real* SB_RESTRICT sum) {
    for (int64_t j = 0; j < layer.padded; ++j) sum[j] = sampling_offset<Real>(layer.key, uint64_t(b), uint64_t(j));
}

// sigma' of row u where the rule keeps it, else 0; advances the sampling accumulators. x is scratch.
template <class Real>
void sigma_row(const SigmaRule<Real>& rule, int64_t n, const Real* SB_RESTRICT u, const Real* SB_RESTRICT threshold,
               Real* SB_RESTRICT x, Real* SB_RESTRICT sum, Real* SB_RESTRICT sigma) {
    for (int64_t j = 0; j < n; ++j) x[j] = u[j] - threshold[j];
    rule.derivative(x, n, rule.constants, rule.window, sigma);
    const Real level = rule.level;
    if (rule.gradient == Gradient::window) {
        for (int64_t j = 0; j < n; ++j) sigma[j] = absolute(x[j]) < level ? sigma[j] : Real(0);
    } else if (rule.gradient == Gradient::sampled && level > Real(0)) {
        for (int64_t j = 0; j < n; ++j) {
            Real next = sum[j];
            sigma[j] = sampled_value(level, sigma[j], next);
            sum[j] = next;
        }
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
