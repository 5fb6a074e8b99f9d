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

// exp(x) for x <= 0 to about one unit in the last place, written so that loops vectorise (a call to the C library costs
// five times as much). x = n ln 2 + r; the magic addend leaves n in the low bits, from where it moves to the exponent.
// Polynomials from Cephes (Moshier, 1989). Below the normal range the result is 0.
SB_INLINE float exponential(float x) {
    const float bounded = x < -87.0f ? -87.0f : x;
    const float shifted = bounded * 1.44269504088896341f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits << 23) + 0x3F800000u;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof(scale));
    const float value = ((p * (r * r) + r) + 1.0f) * scale;
    return x < -87.0f ? 0.0f : value;
}

SB_INLINE double exponential(double x) {
    const double bounded = x < -708.0 ? -708.0 : x;
    const double shifted = bounded * 1.4426950408889634074 + 6755399441055744.0;
    const double n = shifted - 6755399441055744.0;
    const double r = (bounded - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
    const double rr = r * r;
    const double p =
        r * ((1.26177193074810590878e-4 * rr + 3.02994407707441961300e-2) * rr + 9.99999999999999999910e-1);
    const double q =
        ((3.00198505138664455042e-6 * rr + 2.52448340349684104192e-3) * rr + 2.27265548208155028766e-1) * rr + 2.0;
    uint64_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits << 52) + 0x3FF0000000000000ull;
    double scale;
    __builtin_memcpy(&scale, &bits, sizeof(scale));
    const double value = (1.0 + 2.0 * (p / (q - p))) * scale;
    return x < -708.0 ? 0.0 : value;
}

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
        const Real e = exponential(Real(-2) * absolute(c.a * x));
        const Real y = (Real(1) - e) / (Real(1) + e);  // |tanh|
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

// Systematic sampling along time: advances an entry's sum and returns what it came to; from 1 on the entry is drawn and
// the sum begins anew below 1, but for rounding, which a later draw makes good. One at the level or above adds 1 and so
// is always drawn. The reciprocal of the level is the same for all entries; a division for each would cost as much as
// the derivative.
template <class Real>
SB_INLINE Real advance_draw(Real level, Real sigma, Real& sum) {
    const Real share = absolute(sigma) * (Real(1) / level);
    const Real advanced = sum + (share > Real(1) ? Real(1) : share);
    sum = advanced >= Real(1) ? advanced - Real(1) : advanced;
    return advanced;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
