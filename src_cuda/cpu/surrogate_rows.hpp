// Surrogate derivatives of one row and the choice of its active entries.
//
// Cost per row: one vectorised pass for the rational surrogates; exp and tanh are library calls per entry.
#pragma once

#include "../common/random.hpp"
#include "../common/surrogates.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// A surrogate and a gradient rule with their constants, and the row function that applies them.
template <class Real>
struct SigmaRule {
    SurrogateConstants<Real> constants;
    Real window, level;
    // sigma' of row u where the rule keeps it, else 0; advances the sampling accumulators.
    void (*apply)(const SigmaRule&, int64_t n, const Real* u, const Real* threshold, Real* sum, Real* sigma);
};

template <Surrogate kind, Gradient gradient, class Real>
void sigma_row(const SigmaRule<Real>& rule, int64_t n, const Real* SB_RESTRICT u, const Real* SB_RESTRICT threshold,
               Real* SB_RESTRICT sum, Real* SB_RESTRICT sigma) {
    const SurrogateConstants<Real> constants = rule.constants;
    const Real level = rule.level;
    const Real window = gradient == Gradient::window && level < rule.window ? level : rule.window;
    for (int64_t j = 0; j < n; ++j) {
        const Real x = u[j] - threshold[j];
        const Real value = absolute(x) < window ? derivative<kind>(x, constants) : Real(0);
        if (gradient == Gradient::sampled) {
            Real next = sum[j];
            sigma[j] = sampled_value(level, value, next);
            sum[j] = next;
        } else {
            sigma[j] = value;
        }
    }
}

template <Surrogate kind, class Real>
SigmaRule<Real> with_kind(SigmaRule<Real> rule, Gradient gradient) {
    if (gradient == Gradient::sampled && rule.level > Real(0))
        rule.apply = sigma_row<kind, Gradient::sampled, Real>;
    else if (gradient == Gradient::window)
        rule.apply = sigma_row<kind, Gradient::window, Real>;
    else
        rule.apply = sigma_row<kind, Gradient::exact, Real>;
    return rule;
}

// The layer's surrogate under the given rule.
template <class Real>
SigmaRule<Real> sigma_rule(const LayerView<Real>& layer, Gradient gradient) {
    SigmaRule<Real> rule;
    rule.constants = surrogate_constants<Real>(layer.surrogate, layer.surrogate_p0, layer.surrogate_p1);
    rule.window = Real(layer.surrogate_window);
    rule.level = Real(layer.level);
    switch (layer.surrogate) {
    case Surrogate::zero: break;
    case Surrogate::atan: return with_kind<Surrogate::atan>(rule, gradient);
    case Surrogate::fast_sigmoid: return with_kind<Surrogate::fast_sigmoid>(rule, gradient);
    case Surrogate::sigmoid: return with_kind<Surrogate::sigmoid>(rule, gradient);
    case Surrogate::triangular: return with_kind<Surrogate::triangular>(rule, gradient);
    case Surrogate::straight_through: return with_kind<Surrogate::straight_through>(rule, gradient);
    case Surrogate::sfs: return with_kind<Surrogate::sfs>(rule, gradient);
    case Surrogate::triangle: return with_kind<Surrogate::triangle>(rule, gradient);
    case Surrogate::tanh: return with_kind<Surrogate::tanh>(rule, gradient);
    case Surrogate::circ: return with_kind<Surrogate::circ>(rule, gradient);
    case Surrogate::heavi_erfc: return with_kind<Surrogate::heavi_erfc>(rule, gradient);
    }
    return with_kind<Surrogate::zero>(rule, gradient);
}

// The sampling accumulators of one batch element at t = 0.
template <class Real>
void start_sampling(const LayerView<Real>& layer, int64_t b, Real* SB_RESTRICT sum) {
    for (int64_t j = 0; j < layer.padded; ++j) sum[j] = sampling_offset<Real>(layer.key, uint64_t(b), uint64_t(j));
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
