// Surrogate derivatives sigma'(x), x = u - threshold, as the installed libraries compute them, and the
// gradient rules (exact, window, sampled) that decide which of them count.
#pragma once

#include "portable.hpp"
#include "spec.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Constants of one surrogate, rounded once to the working precision as torch rounds a Python scalar.
template <class Real>
struct SurrogateConstants {
    Real a, b;
};

template <class Real>
SB_INLINE SurrogateConstants<Real> surrogate_constants(Surrogate kind, double p0, double p1) {
    if (kind == Surrogate::atan) return {Real(p0 / 2), Real(1.57079632679489661923 * p0)};
    if (kind == Surrogate::heavi_erfc) return {Real(p0), Real(1.7724539041519165)};
    return {Real(p0), Real(p1)};
}

// The builtins, not <cmath>: its inline wrappers could leak between instruction sets at link time.
SB_INLINE float absolute(float x) { return __builtin_fabsf(x); }
SB_INLINE double absolute(double x) { return __builtin_fabs(x); }
SB_INLINE float exponential(float x) { return __builtin_expf(x); }
SB_INLINE double exponential(double x) { return __builtin_exp(x); }
SB_INLINE float hyperbolic_tangent(float x) { return __builtin_tanhf(x); }
SB_INLINE double hyperbolic_tangent(double x) { return __builtin_tanh(x); }
SB_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
SB_INLINE double square_root(double x) { return __builtin_sqrt(x); }

template <Surrogate kind, class Real>
SB_INLINE Real derivative(Real x, SurrogateConstants<Real> c) {
    if constexpr (kind == Surrogate::atan) {
        const Real y = c.b * x;
        return c.a / (Real(1) + y * y);
    } else if constexpr (kind == Surrogate::fast_sigmoid) {
        const Real y = c.a * absolute(x) + Real(1);
        return Real(1) / (y * y);
    } else if constexpr (kind == Surrogate::sigmoid) {
        // Symmetric in x; the negative exponent cannot overflow.
        const Real e = exponential(-c.a * absolute(x));
        const Real y = e + Real(1);
        return c.a * e / (y * y);
    } else if constexpr (kind == Surrogate::triangular) {
        return x < Real(0) ? c.a : -c.a;
    } else if constexpr (kind == Surrogate::straight_through) {
        return Real(1);
    } else if constexpr (kind == Surrogate::sfs) {
        const Real y = c.a * absolute(x) + Real(1);
        return x > c.b ? Real(1) / (y * y) : Real(0);
    } else if constexpr (kind == Surrogate::triangle) {
        const Real y = Real(1) - absolute(x);
        return c.a * (y > Real(0) ? y : Real(0));
    } else if constexpr (kind == Surrogate::tanh) {
        const Real y = hyperbolic_tangent(c.a * x);
        return Real(1) - y * y;
    } else if constexpr (kind == Surrogate::circ) {
        const Real squared = c.a * c.a + x * x;
        const Real root = square_root(squared);
        return c.a * (Real(1) / root - x * x / (squared * root));
    } else if constexpr (kind == Surrogate::heavi_erfc) {
        const Real y = c.a * x;
        return Real(2) * exponential(-(y * y)) / c.b;
    } else {
        return Real(0);
    }
}

// Value of an entry already known to be active: what the rule makes of sigma'.
template <class Real>
SB_INLINE Real active_value(Gradient rule, Real level, Real sigma, Real x) {
    if (rule == Gradient::none) return Real(0);
    if (rule == Gradient::window) return absolute(x) < level ? sigma : Real(0);
    if (rule == Gradient::sampled && absolute(sigma) < level) return sigma < Real(0) ? -level : level;
    return sigma;
}

// Systematic sampling along time: returns the value of this entry (0: inactive) and advances the sum.
template <class Real>
SB_INLINE Real sampled_value(Real level, Real sigma, Real& sum) {
    const Real size = absolute(sigma);
    const bool keep = size >= level;
    const Real advanced = keep ? sum : sum + size / level;
    const bool emit = !keep && advanced >= Real(1);
    sum = emit ? advanced - Real(1) : advanced;
    return keep ? sigma : emit ? (sigma < Real(0) ? -level : level) : Real(0);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
