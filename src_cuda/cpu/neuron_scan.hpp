// Forward scan of one batch element, or of several side by side: feed, neuron step, and the events it leaves.
//
// Cost per time step: nnz(x[t]) rows of W^T added (event input) or one row read (dense current), one pass
// of the step, one pass of the surrogate when active entries are wanted, and work per event. The state
// stays in L1; nothing of size T x N is written unless dense outputs are asked for.
#pragma once

#include "feed.hpp"
#include "masks.hpp"
#include "step_rows.hpp"
#include "surrogate_rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// State at the start of batch element b, and of those together with it.
template <class Real>
void start_state(const LayerView<Real>& layer, int64_t b, Real* m, Real* i) {
    const int64_t n = layer.padded, width = layer.width, at = b * layer.columns;
    fill_row(m, n, Real(0));
    fill_row(i, n, Real(0));
    if (layer.m0) load_row(m, layer.m0 + at, width, n);
    if (layer.i0 && layer.poles == 2) load_row(i, layer.i0 + at, width, n);
}

SB_INLINE bool has_room(const EventSink& sink) { return sink.count <= sink.last; }

// The set bits of a row.
SB_INLINE void append(EventSink& sink, const uint64_t* words, int64_t n, int64_t first) {
    int64_t count = sink.count;
    for (int64_t k = 0; k < words_of(n); ++k) count += append_bits(words[k], int32_t(first + 64 * k), sink.idx + count);
    sink.count = count;
}

// Says of the events from `from` on which row they are of; of several batch elements, they become each element's own.
template <class Real>
SB_INLINE void finish_row(const LayerView<Real>& layer, EventSink& sink, int64_t from, int64_t t) {
    if (!sink.rows) {
        sink.row_counts[t] = int32_t(sink.count - from);
        return;
    }
    const uint32_t n = uint32_t(layer.columns);
    for (int64_t e = from; e < sink.count; ++e) {
        const uint32_t element = uint32_t(sink.idx[e]) / n;
        sink.idx[e] -= int32_t(element * n);
        sink.rows[e] = int32_t(element * layer.steps + t);
    }
}

// Entries that are listed for their spike only are marked by an infinite u: their surrogate value is zero.
template <class Real>
void append_marked(const LayerView<Real>& layer, ForwardCursor<Real>& cursor) {
    const int64_t n = layer.padded, from = cursor.active_sink.count;
    uint64_t* listed = cursor.bits.reset;  // no longer needed in this step
    for (int64_t k = 0; k < words_of(n); ++k) listed[k] = cursor.bits.near[k] | cursor.bits.fired[k];
    append(cursor.active_sink, listed, n, layer.first);
    for (int64_t e = from; e < cursor.active_sink.count; ++e) {
        const int64_t j = cursor.active_sink.idx[e] - layer.first;
        cursor.active_u[e] = cursor.bits.near[j / 64] >> (j % 64) & 1 ? cursor.u[j] : Real(__builtin_inf());
    }
}

// The active entries; on entry the near bits say where the surrogate's derivative may differ from zero.
template <class Real>
void append_active(const LayerView<Real>& layer, const SigmaRule<Real>& rule, ForwardCursor<Real>& cursor) {
    const int64_t n = layer.padded, from = cursor.active_sink.count;
    uint64_t* active = cursor.bits.near;
    if (layer.gradient == Gradient::none)
        for (int64_t k = 0; k < words_of(n); ++k) active[k] = 0;
    else if (!rule.positive)
        rule.select(rule, n, cursor.u, layer.coefficients.threshold, cursor.sum, active);
    if (layer.active_includes_spikes) {
        append_marked(layer, cursor);
    } else {
        int64_t count = from;
        for (int64_t k = 0; k < words_of(n); ++k)
            count += append_entries(active[k], int32_t(layer.first + 64 * k), cursor.u + 64 * k,
                                    cursor.active_sink.idx + count, cursor.active_u + count);
        cursor.active_sink.count = count;
    }
    const int32_t* idx = cursor.active_sink.idx;
    for (int64_t e = from; layer.carrier_count && e < cursor.active_sink.count; ++e)
        for (int k = 0; k < layer.carrier_count; ++k)
            cursor.active_carriers[e * layer.carrier_count + k] = cursor.carrier_u[k * n + idx[e] - layer.first];
}

template <class Real>
void advance_carriers(const LayerView<Real>& layer, const StepTable<Real>& table, ForwardCursor<Real>& cursor) {
    const int64_t n = layer.padded;
    const bool detached = layer.cuts && layer.cuts[cursor.t];
    int64_t k = 0;
    for (int bit = 0; bit < 3; ++bit) {
        const Carrier parameter = Carrier(1 << bit);
        if (!(layer.carriers & parameter)) continue;
        Real *m = cursor.carrier_m + k * n, *i = cursor.carrier_i + k * n;
        if (detached) {
            fill_row(m, n, Real(0));
            fill_row(i, n, Real(0));
        }
        table.carrier(layer.coefficients, parameter, n, cursor.current, cursor.m_prev, cursor.i_prev, m, i,
                      cursor.carrier_u + k * n);
        ++k;
    }
}

template <class Real>
void start_element(const LayerView<Real>& layer, ForwardCursor<Real>& cursor) {
    start_state(layer, cursor.b, cursor.m, cursor.i);
    fill_row(cursor.carrier_m, layer.carrier_count * layer.padded, Real(0));
    fill_row(cursor.carrier_i, layer.carrier_count * layer.padded, Real(0));
    if (layer.gradient == Gradient::sampled) start_sampling(layer, cursor.b, cursor.sum);
}

template <class Real>
void finish_element(const LayerView<Real>& layer, const ForwardCursor<Real>& cursor) {
    const int64_t width = layer.width, at = cursor.b * layer.columns;
    if (layer.m_last) store_row(layer.m_last + at, cursor.m, width);
    if (layer.i_last && layer.poles == 2) store_row(layer.i_last + at, cursor.i, width);
    for (int64_t k = 0; k < layer.carrier_count; ++k) {
        const int64_t to = k * layer.batch * layer.columns + at, from = k * layer.padded;
        if (layer.carrier_m_last) store_row(layer.carrier_m_last + to, cursor.carrier_m + from, width);
        if (layer.carrier_i_last) store_row(layer.carrier_i_last + to, cursor.carrier_i + from, width);
    }
}

// Where a row of a dense output lies; asks for the one that is written a few steps on.
template <class Real>
SB_INLINE Real* output_row(const Strided<Real>& out, const LayerView<Real>& layer, int64_t b, int64_t t) {
    Real* row = out.data + t * out.stride_t + b * out.stride_b;
    if (t + prefetch_distance < layer.steps) prefetch_to_write(row + prefetch_distance * out.stride_t, layer.width);
    return row;
}

template <class Real>
void write_dense(const LayerView<Real>& layer, const ForwardCursor<Real>& cursor) {
    const int64_t b = cursor.b, t = cursor.t, n = layer.padded, width = layer.width;
    if (layer.spikes.data) {
        Real* SB_RESTRICT z = cursor.z;
        const Real* SB_RESTRICT graded = layer.coefficients.graded;
        const Real *SB_RESTRICT u = cursor.u, *SB_RESTRICT threshold = layer.coefficients.threshold;
        for (int64_t j = 0; j < n; ++j) z[j] = u[j] > threshold[j] ? graded[j] : Real(0);
        store_row(output_row(layer.spikes, layer, b, t), z, width);
    }
    if (layer.membrane_out.data) store_row(output_row(layer.membrane_out, layer, b, t), cursor.m, width);
}

template <class Real>
SB_INLINE void append_events(const LayerView<Real>& layer, const SigmaRule<Real>& rule, ForwardCursor<Real>& cursor) {
    const int64_t n = layer.padded, first = layer.first, t = cursor.t;
    EventSink &resets = cursor.reset_sink, &spikes = cursor.spike_sink, &active = cursor.active_sink;
    const int64_t resets_before = resets.count, spikes_before = spikes.count, active_before = active.count;
    if (layer.want_resets) append(resets, cursor.bits.reset, n, first);
    if (layer.want_spikes) append(spikes, cursor.bits.fired, n, first);
    if (layer.want_active) append_active(layer, rule, cursor);
    if (layer.want_resets) finish_row(layer, resets, resets_before, t);
    if (layer.want_spikes) finish_row(layer, spikes, spikes_before, t);
    if (layer.want_active) finish_row(layer, active, active_before, t);
}

template <class Real>
bool forward_scan(const LayerView<Real>& layer, ForwardCursor<Real>& cursor) {
    const StepTable<Real> table = find_step<Real>(layer.integrator, layer.poles, layer.pre, layer.post);
    const SigmaRule<Real> rule = sigma_rule(layer, layer.gradient);
    const Feed<Real> feed = find_feed(layer);
    const int64_t n = layer.padded;
    bool fresh = true;  // whether the current has yet to be read
    if (cursor.t == 0) start_element(layer, cursor);
    for (; cursor.t < layer.steps; ++cursor.t) {
        if (!has_room(cursor.spike_sink) || !has_room(cursor.active_sink) || !has_room(cursor.reset_sink)) return false;
        input_row(layer, feed, cursor.b, cursor.t, fresh, cursor.current);
        fresh = false;
        if (layer.carrier_count) {
            store_row(cursor.m_prev, cursor.m, n);
            store_row(cursor.i_prev, cursor.i, n);
        }
        table.step(layer, cursor.current, cursor.m, cursor.i, cursor.u, rule.limit, cursor.bits);
        if (layer.carrier_count) advance_carriers(layer, table, cursor);
        append_events(layer, rule, cursor);
        write_dense(layer, cursor);
    }
    finish_element(layer, cursor);
    return true;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
