// What happens at the events of a reverse step: active entries, spikes, resets.
//
// Cost: work per event; the surrogate of all active entries is one vectorised pass.
#pragma once

#include "event_rows.hpp"
#include "neuron_scan.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// The events of one row in a view's neurons, counted from the view's first.
struct Entries {
    const int32_t* idx;
    int64_t count, first;
    int64_t operator[](int64_t k) const { return idx[k] - first; }
};

// The first of count ascending indices that is at least bound.
SB_INLINE int64_t lower_bound(const int32_t* idx, int64_t count, int64_t bound) {
    int64_t from = 0;
    while (from < count) {
        const int64_t middle = (from + count) / 2;
        if (idx[middle] < bound)
            from = middle + 1;
        else
            count = middle;
    }
    return from;
}

template <class Real>
SB_INLINE Entries entries_of(const LayerView<Real>& layer, const EventList<Real>& list, int64_t row) {
    if (!list.ptr) return {nullptr, 0, 0};
    Entries entries = {list.idx + list.ptr[row], list.ptr[row + 1] - list.ptr[row], layer.first};
    if (layer.width < layer.columns) {
        const int64_t before = lower_bound(entries.idx, entries.count, layer.first);
        entries.idx += before;
        entries.count = lower_bound(entries.idx, entries.count - before, layer.first + layer.width);
    }
    return entries;
}

// Neurons whose membrane is above threshold before the first step: r[0].
template <class Real>
int64_t first_resets(const LayerView<Real>& layer, int64_t b, int32_t* idx) {
    int64_t count = 0;
    for (int64_t j = 0; j < layer.width; ++j) {
        const Real m = layer.m0 ? layer.m0[b * layer.columns + j] : Real(0);
        if (m > layer.coefficients.threshold[j]) idx[count++] = int32_t(j);
    }
    return count;
}

// r[t]: with nothing done to m after a spike it is the spikes of t - 1, else it was saved.
template <class Real>
SB_INLINE Entries resets_at(const LayerView<Real>& layer, const GradientView<Real>& grads,
                            const ReverseScratch<Real>& scratch, int64_t b, int64_t t) {
    const int64_t row = b * layer.steps + t;
    if (layer.post == Post::subtract || layer.post == Post::zero) return entries_of(layer, grads.resets, row);
    if (layer.pre == Pre::none) return {nullptr, 0, 0};
    if (t == 0) return {scratch.first_reset, scratch.first_reset_count, 0};
    return entries_of(layer, grads.spikes, row - 1);
}

// Whether an active entry does no more than add its share: no term in l, no sums besides.
template <class Real>
bool adds_only(const LayerView<Real>& layer, const GradientView<Real>& grads) {
    return layer.post == Post::none && !grads.want_threshold && !grads.want_graded && !grads.want_membrane &&
           !grads.want_gain && !grads.want_synapse;
}

// sigma' of a block of active entries, whose rule is known to the compiler: a branch for each would be mispredicted.
template <Gradient gradient, class Real>
SB_INLINE void active_values(Real level, int64_t count, const Real* SB_RESTRICT u, const Real* SB_RESTRICT threshold,
                             Real* SB_RESTRICT sigma) {
    const Real infinity = Real(__builtin_inf());
    for (int64_t e = 0; e < count; ++e) {
        const Real value = active_value(gradient, level, sigma[e], u[e] - threshold[e]);
        sigma[e] = absolute(u[e]) < infinity ? value : Real(0);
    }
}

template <class Real>
void surrogate_values(const LayerView<Real>& layer, int64_t count, const int32_t* SB_RESTRICT idx, const Real* u,
                      Real* values) {
    constexpr int64_t block = 256;
    const SigmaRule<Real> rule = sigma_rule(layer, Gradient::exact);
    const Real *SB_RESTRICT of_neuron = layer.coefficients.threshold, level = Real(layer.level);
    Real threshold[block];
    fill_row(threshold, block, of_neuron[0]);
    for (int64_t begin = 0; begin < count; begin += block) {
        const int64_t size = count - begin < block ? count - begin : block;
        for (int64_t e = 0; e < size && !layer.uniform; ++e) threshold[e] = of_neuron[idx[begin + e]];
        Real* sigma = values + begin;
        rule.apply(rule, size, u + begin, threshold, nullptr, sigma);
        switch (layer.gradient) {
        case Gradient::none: active_values<Gradient::none>(level, size, u + begin, threshold, sigma); break;
        case Gradient::exact: active_values<Gradient::exact>(level, size, u + begin, threshold, sigma); break;
        case Gradient::window: active_values<Gradient::window>(level, size, u + begin, threshold, sigma); break;
        case Gradient::sampled: active_values<Gradient::sampled>(level, size, u + begin, threshold, sigma); break;
        }
    }
}

// at[r]: row r, counted from `row`, of a tensor.
template <class Real>
SB_INLINE void find_rows(const Strided<const Real>& from, int64_t steps, int64_t row, int64_t rows, const Real** at) {
    int64_t b = row / steps, t = row % steps;
    for (int64_t r = 0; r < rows; ++r) {
        at[r] = from.data + t * from.stride_t + b * from.stride_b;
        const bool ends = ++t == steps;
        b += ends;
        t = ends ? 0 : t;
    }
}

// Surrogate values of the active entries of rows [row, row + rows), or what they add to mu if that is all they do.
// event_row has room for the entries' rows.
template <class Real>
void entry_values(const LayerView<Real>& layer, const GradientView<Real>& grads, int64_t row, int64_t rows,
                  uint16_t* event_row, Real* values) {
    const int64_t first = grads.active.ptr[row], count = grads.active.ptr[row + rows] - first;
    const int32_t* SB_RESTRICT idx = grads.active.idx + first;
    const Real *SB_RESTRICT graded = layer.coefficients.graded, *g = grads.g_active ? grads.g_active + first : nullptr;
    Real* SB_RESTRICT out = values + first;
    surrogate_values(layer, count, idx, grads.active_u + first, out);
    if (!adds_only(layer, grads)) return;
    const auto scale = [&](const auto& g_z) {
        const Real shared = graded[0];
        if (layer.uniform)
            for (int64_t e = 0; e < count; ++e) out[e] = out[e] != Real(0) ? out[e] * (shared * g_z(e)) : Real(0);
        else
            for (int64_t e = 0; e < count; ++e)
                out[e] = out[e] != Real(0) ? out[e] * (graded[idx[e]] * g_z(e)) : Real(0);
    };
    if (grads.g_spikes.data) {
        const Real* at[entry_block_rows];
        find_rows(grads.g_spikes, layer.steps, row, rows, at);
        spread_rows(grads.active.ptr + row, rows, event_row);
        scale([&](int64_t e) { return (g ? g[e] : Real(0)) + at[event_row[e]][idx[e]]; });
    } else if (g) {
        scale([g](int64_t e) { return g[e]; });
    } else {
        fill_row(out, count, Real(0));
    }
}

template <class Real>
SB_INLINE Real jump_of(const LayerView<Real>& layer, int64_t j, Real u) {
    switch (layer.post) {
    case Post::subtract:
    case Post::subtract_all: return -layer.coefficients.threshold[j];
    case Post::zero: return -u;
    case Post::value: return layer.coefficients.reset[j] - u;
    case Post::none: break;
    }
    return Real(0);
}

// Position of a parameter among the carriers that were asked for.
SB_INLINE int carrier_index(int carriers, Carrier parameter) {
    return __builtin_popcount(unsigned(carriers) & (unsigned(parameter) - 1));
}

// sigma' S of the active entries of one step into entry_add, and the parameter sums that read it.
template <class Real>
void active_entries(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                    ReverseScratch<Real>& scratch, int64_t b, int64_t t, const Entries& active) {
    const Real* g_spikes =
        grads.g_spikes.data ? grads.g_spikes.data + t * grads.g_spikes.stride_t + b * grads.g_spikes.stride_b : nullptr;
    const int64_t begin = active.count ? active.idx - grads.active.idx : 0;
    for (int64_t k = 0; k < active.count; ++k) {
        const int64_t j = active[k], e = begin + k;
        const Real g_packed = grads.g_active ? grads.g_active[e] : Real(0);
        const Real sigma = grads.entry_values[e];
        Real add = Real(0);
        if (sigma != Real(0)) {
            const Real g_z = g_packed + (g_spikes ? g_spikes[j] : Real(0));
            const Real S = layer.coefficients.graded[j] * g_z + jump_of(layer, j, grads.active_u[e]) * scratch.l[j];
            add = sigma * S;
        }
        scratch.entry_add[k] = add;
        if (grads.want_threshold) sums.threshold[j] -= add;
        if (grads.want_graded && grads.active_u[e] > layer.coefficients.threshold[j]) sums.graded[j] += g_packed;
        const Real* carrier = grads.active_carriers + e * layer.carrier_count;
        if (grads.want_membrane) sums.membrane[j] += add * carrier[0];
        if (grads.want_gain) sums.gain[j] += add * carrier[carrier_index(layer.carriers, carrier_gain)];
        if (grads.want_synapse) sums.synapse[j] += add * carrier[carrier_index(layer.carriers, carrier_synapse)];
    }
}

// Applies A = dm/du at spiked and reset entries; l is the adjoint of m on entry.
template <class Real>
void through_reset(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                   ReverseScratch<Real>& scratch, const Entries& spiked, const Entries& resets) {
    Real* SB_RESTRICT l = scratch.l;
    if (grads.want_reset && layer.post == Post::value)
        for (int64_t k = 0; k < spiked.count; ++k) sums.reset[spiked[k]] += l[spiked[k]];
    if (grads.want_threshold && (layer.post == Post::subtract || layer.post == Post::subtract_all))
        for (int64_t k = 0; k < spiked.count; ++k) sums.threshold[spiked[k]] -= l[spiked[k]];
    if (grads.want_threshold && layer.post == Post::subtract)
        for (int64_t k = 0; k < resets.count; ++k) sums.threshold[resets[k]] += l[resets[k]];
    if (layer.post == Post::value) {
        for (int64_t k = 0; k < spiked.count; ++k) l[spiked[k]] = Real(0);
    } else if (layer.post == Post::zero) {
        // An entry may be in both lists; both corrections refer to the untouched l.
        for (int64_t k = 0; k < spiked.count; ++k) scratch.spiked_l[k] = l[spiked[k]];
        for (int64_t k = 0; k < resets.count; ++k) scratch.reset_l[k] = l[resets[k]];
        for (int64_t k = 0; k < spiked.count; ++k) l[spiked[k]] -= scratch.spiked_l[k];
        for (int64_t k = 0; k < resets.count; ++k) l[resets[k]] += scratch.reset_l[k];
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
