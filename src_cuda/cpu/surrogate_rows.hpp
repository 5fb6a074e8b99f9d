// Surrogate derivatives of one row and the choice of its active entries.
//
// Cost per row: one vectorised pass for the rational surrogates; exp and tanh are library calls per entry.
#pragma once

#include "../common/random.hpp"
#include "../common/surrogates.hpp"
#include "masks.hpp"
#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// A surrogate and a gradient rule with their constants, and the row functions that apply them.
template <class Real>
struct SigmaRule {
    SurrogateConstants<Real> constants;
    Real window, level;
    Real limit;     // sigma' is 0 where |u - threshold| >= limit
    bool positive;  // and nowhere else
    // sigma' of row u where the rule keeps it, else 0; advances the sampling accumulators.
    void (*apply)(const SigmaRule&, int64_t n, const Real* u, const Real* threshold, Real* sum, Real* sigma);
    // Clears the bits of near entries that the rule does not keep; advances the sampling accumulators.
    void (*select)(const SigmaRule&, int64_t n, const Real* u, const Real* threshold, Real* sum, uint64_t* bits);
};

template <Surrogate kind, class Real>
SB_INLINE Real sigma_at(const SigmaRule<Real>& rule, Real x) {
    return absolute(x) < rule.limit ? derivative<kind>(x, rule.constants) : Real(0);
}

template <Surrogate kind, Gradient gradient, class Real>
void sigma_row(const SigmaRule<Real>& shared, int64_t n, const Real* SB_RESTRICT u, const Real* SB_RESTRICT threshold,
               Real* SB_RESTRICT sum, Real* SB_RESTRICT sigma) {
    const SigmaRule<Real> rule = shared;
    for (int64_t j = 0; j < n; ++j) {
        const Real x = u[j] - threshold[j], value = sigma_at<kind>(rule, x);
        if (gradient != Gradient::sampled) {
            sigma[j] = value;
            continue;
        }
        Real next = sum[j];
        const bool drawn = advance_draw(rule.level, value, next) >= Real(1);
        sum[j] = next;
        sigma[j] = drawn ? active_value(gradient, rule.level, value, x) : Real(0);
    }
}

// bounded: whether the near entries are not all there are.
template <Surrogate kind, Gradient gradient, bool bounded, class Real>
void select_row(const SigmaRule<Real>& shared, int64_t n, const Real* SB_RESTRICT u, const Real* SB_RESTRICT threshold,
                Real* SB_RESTRICT sum, uint64_t* SB_RESTRICT bits) {
    const SigmaRule<Real> rule = shared;
    Real below_one[16];  // the number before it: beyond lies what is drawn
    for (Real& bound : below_one) bound = Real(1) - (sizeof(Real) == 4 ? Real(0x1p-24) : Real(0x1p-53));
    for (int64_t from = 0; from < n; from += 64) {
        // Far from the threshold sigma' is 0, which leaves the sampling sums as they are.
        if (bounded && !bits[from / 64]) continue;
        const int64_t size = n - from < 64 ? n - from : 64;
        uint64_t kept = 0;
        for (int64_t first = 0; first < size; first += 16) {
            Real result[16];  // sigma', or what the draw came to
            for (int64_t k = 0; k < 16; ++k) {
                const int64_t j = from + first + k;
                const Real x = u[j] - threshold[j];
                result[k] = bounded ? sigma_at<kind>(rule, x) : derivative<kind>(x, rule.constants);
                if (gradient != Gradient::sampled) continue;
                Real next = sum[j];
                result[k] = advance_draw(rule.level, result[k], next);
                sum[j] = next;
            }
            const uint32_t part = gradient == Gradient::sampled ? greater16(result, below_one) : nonzero16(result);
            kept |= uint64_t(part) << first;
        }
        bits[from / 64] &= kept;
    }
}

// Whether the derivative falls off on both sides, so that it is zero nowhere if it is not zero at the limit.
constexpr bool falls_off(Surrogate kind) {
    return kind == Surrogate::atan || kind == Surrogate::fast_sigmoid || kind == Surrogate::sigmoid ||
           kind == Surrogate::straight_through || kind == Surrogate::tanh || kind == Surrogate::heavi_erfc;
}

template <Surrogate kind, Gradient gradient, class Real>
void set_functions(SigmaRule<Real>& rule) {
    rule.apply = sigma_row<kind, gradient, Real>;
    const bool bounded = rule.limit < Real(__builtin_inf());
    rule.select = bounded ? select_row<kind, gradient, true, Real> : select_row<kind, gradient, false, Real>;
}

template <Surrogate kind, class Real>
SigmaRule<Real> with_kind(SigmaRule<Real> rule, Gradient gradient) {
    // Well above the smallest numbers, where rounding could break the fall.
    rule.positive = falls_off(kind) && derivative<kind>(rule.limit, rule.constants) > Real(1e-30);
    if (gradient == Gradient::sampled && rule.level > Real(0)) {
        rule.positive = false;
        set_functions<kind, Gradient::sampled>(rule);
    } else {
        set_functions<kind, Gradient::exact>(rule);
    }
    return rule;
}

// The layer's surrogate under the given rule.
template <class Real>
SigmaRule<Real> sigma_rule(const LayerView<Real>& layer, Gradient gradient) {
    SigmaRule<Real> rule;
    rule.constants = surrogate_constants<Real>(layer.surrogate, layer.surrogate_p0, layer.surrogate_p1);
    rule.window = Real(layer.surrogate_window);
    rule.level = Real(layer.level);
    rule.limit = gradient == Gradient::window && rule.level < rule.window ? rule.level : rule.window;
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

// The sampling accumulators of a row at t = 0.
template <class Real>
void start_sampling(const LayerView<Real>& layer, int64_t b, Real* SB_RESTRICT sum) {
    const int64_t n = layer.together == 1 ? layer.padded : layer.columns;
    for (int64_t e = 0; e < layer.together; ++e)
        for (int64_t j = 0; j < n; ++j)
            sum[e * n + j] = sampling_offset<Real>(layer.key, uint64_t(b + e), uint64_t(layer.first + j));
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
