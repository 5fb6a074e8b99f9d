// A layer's surrogate and gradient rule as plain data, chosen at run time: for code that meets one entry at a time.
#pragma once

#include "layer.hpp"
#include "surrogates.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
struct SurrogateRule {
    Surrogate kind;
    Gradient gradient;
    SurrogateConstants<Real> constants;
    Real limit;  // sigma' is 0 where |u - threshold| >= limit
    Real level;  // s0 of sampled gradients, half-width of windows
};

template <class Real>
SurrogateRule<Real> surrogate_rule(const Layer& layer) {
    SurrogateRule<Real> rule;
    rule.kind = Surrogate(layer.surrogate);
    rule.gradient = layer.fires ? Gradient(layer.gradient) : Gradient::none;
    rule.constants = surrogate_constants<Real>(rule.kind, layer.surrogate_p0, layer.surrogate_p1);
    rule.level = Real(layer.level);
    rule.limit = Real(layer.surrogate_window);
    if (rule.gradient == Gradient::window && rule.level < rule.limit) rule.limit = rule.level;
    return rule;
}

// sigma'(x) within the rule's support.
template <class Real>
SB_INLINE Real sigma_of(const SurrogateRule<Real>& rule, Real x) {
    if (!(absolute(x) < rule.limit)) return Real(0);
    const SurrogateConstants<Real> c = rule.constants;
    switch (rule.kind) {
    case Surrogate::zero: break;
    case Surrogate::atan: return derivative<Surrogate::atan>(x, c);
    case Surrogate::fast_sigmoid: return derivative<Surrogate::fast_sigmoid>(x, c);
    case Surrogate::sigmoid: return derivative<Surrogate::sigmoid>(x, c);
    case Surrogate::triangular: return derivative<Surrogate::triangular>(x, c);
    case Surrogate::straight_through: return derivative<Surrogate::straight_through>(x, c);
    case Surrogate::sfs: return derivative<Surrogate::sfs>(x, c);
    case Surrogate::triangle: return derivative<Surrogate::triangle>(x, c);
    case Surrogate::tanh: return derivative<Surrogate::tanh>(x, c);
    case Surrogate::circ: return derivative<Surrogate::circ>(x, c);
    case Surrogate::heavi_erfc: return derivative<Surrogate::heavi_erfc>(x, c);
    }
    return Real(0);
}

// Whether the rule keeps an entry with derivative sigma; advances the sum of the systematic sampling.
template <class Real>
SB_INLINE bool keeps(const SurrogateRule<Real>& rule, Real sigma, Real& sum) {
    if (rule.gradient == Gradient::none) return false;
    if (rule.gradient == Gradient::sampled && rule.level > Real(0))
        return advance_draw(rule.level, sigma, sum) >= Real(1);
    return sigma != Real(0);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
