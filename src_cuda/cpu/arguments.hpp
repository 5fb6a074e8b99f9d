// Plain data passed from the drivers (compiled once) to the kernels (compiled per instruction set).
//
// No member functions and no std types: code emitted by the kernels' translation units must not be shared.
//
// Rows are batch-major, row = b * steps + t. "Padded" arrays have `padded` entries per row, a multiple of
// 16, whose tail past `width` is harmless (zero state, threshold 1), so that loops need no remainder.
#pragma once

#include <stdint.h>

#include "../common/spec.hpp"
#include "convolution_view.hpp"
#include "product.hpp"

namespace sparse_backend {

template <class Real>
struct CoefficientRows {  // padded rows, one entry per neuron
    const Real *membrane, *gain, *synapse, *leak, *threshold, *reset, *graded;
};

template <class Real>
struct EventList {
    const int64_t* ptr;  // [rows + 1], or null when the list is absent
    const int32_t* idx;
    const Real* val;  // null: every value is one
};

template <class Real>
struct Strided {  // [T, B, N] with a contiguous last axis; null data: absent
    Real* data;
    int64_t stride_t, stride_b;
};

// A layer, or a tile of its neurons: a tile's pointers are to its own first neuron. In the forward scan of a narrow
// layer a row may hold several batch elements side by side, as memory does: [together, columns].
template <class Real>
struct LayerView {
    int64_t steps, batch, width, padded, inputs;  // width, padded: of a row
    int64_t first, columns;       // of the tile within the layer; neurons of the layer, the stride of [B, N] arrays
    int64_t together;             // batch elements of a row; more than one only where the tile is the layer
    int64_t weight_stride;        // of weight_t, whose rows may have an entry for every neuron of the layer
    bool uniform;                 // every coefficient is the same for all neurons, padding included
    Strided<const Real> current;  // absent: the input is the event list times weight_t, plus bias
    EventList<Real> input;
    const Real* weight_t;  // [inputs, weight_stride]
    const Real* bias;      // padded row
    CoefficientRows<Real> coefficients;
    const Real *m0, *i0;  // [B, N] or null for zeros
    const uint8_t* cuts;  // [T] or null
    Integrator integrator;
    int poles;
    Pre pre;
    Post post;
    Surrogate surrogate;
    double surrogate_p0, surrogate_p1, surrogate_window;
    Gradient gradient;
    double level;
    uint64_t key;
    bool active_includes_spikes;
    bool want_spikes, want_active, want_resets;
    int carriers;  // bits of Carrier
    int carrier_count;
    Strided<Real> spikes, membrane_out;
    Real *m_last, *i_last, *carrier_m_last, *carrier_i_last;
};

// A growing list of events; the driver owns the memory and makes room for a whole row at a time.
struct EventSink {
    int32_t* idx;
    int64_t count;
    int64_t last;         // the largest count that leaves room for one more row
    int32_t* row_counts;  // [T], or null and
    int32_t* rows;        // each event's own, of the [together, T] of the batch elements together
};

// What the step leaves as bits, one per neuron.
struct StepBits {
    uint64_t *fired, *near, *reset;  // u > threshold; u close enough to the threshold; m before the step > threshold
    uint64_t last;                   // the bits of the last word that are no padding
};

// One thread's progress through the batch element, or the elements together, of the forward scan.
template <class Real>
struct ForwardCursor {
    int64_t b, t;                             // b: the first element
    Real *m, *i;                              // padded state rows
    Real *current, *u, *z;                    // padded scratch rows; current has room for one more vector tile
    Real* sum;                                // accumulators of the systematic sampling
    Real *m_prev, *i_prev;                    // previous state, kept for the carriers
    Real *carrier_m, *carrier_i, *carrier_u;  // [carrier_count, padded]
    StepBits bits;
    EventSink spike_sink, active_sink, reset_sink;
    Real* active_u;         // as active_sink.idx
    Real* active_carriers;  // [.., carrier_count]
};

// lambda W at every entry, of the rows whose lambda is at hand.
template <class Real>
struct InputProduct {
    const Product<Real>* product;
    const Real* weight;  // packed
    Real* out;           // [rows, columns], or null
    int64_t columns;     // inputs, padded
    bool past_cache;
};

// What arrives from outside, and where the results go, in both reverse scans.
template <class Real>
struct GradientView {
    EventList<Real> active;  // positions of g_active, u and carriers
    const Real* active_u;
    const Real* active_carriers;  // [P, carrier_count]
    const Real* entry_values;     // [P], of entry_values() in sparse_entries.hpp
    EventList<Real> spikes, resets;
    const Real* g_active;
    Strided<const Real> g_spikes, g_membrane;
    const Real *g_m_last, *g_i_last;  // [B, N]
    EventList<Real> low;              // positions below where the input gradient is wanted
    Real* d_low;
    InputProduct<Real> input_product;
    Strided<Real> d_current;
    Real* d_current_sum;  // [B, N]
    Real *d_m0, *d_i0;    // [B, N]
    bool want_weight;
    bool trace;             // dW in trace form
    Strided<const Real> x;  // dense input of the trace form; absent: the layer's input events
    bool want_membrane, want_gain, want_synapse, want_leak, want_threshold, want_reset, want_graded;
};

// Sums over one slot (a fixed range of the batch) for the neurons of a view, added up in slot order by the driver.
template <class Real>
struct SlotSums {
    Real* weight_t;  // [inputs, padded], or [width, inputs padded to 16] in trace form, or null
    Real* bias;      // padded rows from here on
    Real *membrane, *gain, *synapse, *leak, *threshold, *reset, *graded;
};

// One thread's scratch for the trace form: the innovations of one batch element and the filtered input.
template <class Real>
struct TraceScratch {
    int64_t inputs;        // padded to 16
    int64_t *begin, *end;  // [T], ranges of idx and q
    int32_t* idx;          // [T * padded]
    Real* q;               // [T * padded]
    int64_t count;
    Real* difference;     // padded row of neurons
    Real *inner, *outer;  // padded rows of inputs
};

// Event lists are read in pieces of at most so many rows, and the row of an event in vectors of so many events.
constexpr int64_t event_block_rows = 1024, event_row_group = 16;
// At most so many rows at a time in Kernels::entry_values.
constexpr int64_t entry_block_rows = 256;

// The input events of a block of rows, sorted by input.
template <class Real>
struct InputBuckets {
    int32_t* begin;  // [inputs + 1]; null where dW is added up in the order of the events
    uint16_t* row;   // within the block
    Real* val;
};

// Steps that the dense reverse scan makes at a time: their rows stay in L1.
constexpr int64_t reverse_steps = 8;

// One thread's scratch for the reverse scans; padded rows unless said otherwise.
template <class Real>
struct ReverseScratch {
    const Real* decay;  // factor of the membrane from step to step
    Real *mu, *carry, *row, *eta, *l, *spike;
    Real* element_sum;  // of lambda over the steps of one batch element
    Real *spiked_l, *reset_l;
    Real* entry_add;       // what each active entry of a step adds
    int32_t* first_reset;  // neurons reset by the initial state
    int64_t first_reset_count;
    bool unit_gain;                  // lambda is mu
    int64_t chunk_rows, piece_rows;  // see chunks.hpp
    Real* lambda;                    // [chunk_rows, padded]; in the dense scan u until lambda takes its place
    // Dense scan only: the recomputed trajectory of one batch element, [T, padded].
    Real *m, *i_new;
    Real* sigma;      // [T, padded] when sampled, else of reverse_steps rows
    Real *g_z, *g_m;  // gradients from outside, of reverse_steps rows
    ForwardCursor<Real> forward;
    Real* plain;  // mu if nothing happened at this step
    TraceScratch<Real> trace;
    InputBuckets<Real> buckets;
    uint16_t* event_row;  // of the events of a block of rows
};

// The kernels of one instruction set and one precision.
template <class Real>
struct Kernels {
    // Advances the cursor until the sequence ends or a sink has no room for one more row.
    bool (*forward)(const LayerView<Real>&, ForwardCursor<Real>&);
    // The reverse scans of batch elements [from, to).
    void (*sparse_reverse)(const LayerView<Real>&, const GradientView<Real>&, const SlotSums<Real>&,
                           ReverseScratch<Real>&, int64_t from, int64_t to);
    void (*dense_reverse)(const LayerView<Real>&, const GradientView<Real>&, const SlotSums<Real>&,
                          ReverseScratch<Real>&, int64_t from, int64_t to);
    // Values of the active entries of rows [row, row + rows) before the sparse scan; see sparse_entries.hpp.
    void (*entry_values)(const LayerView<Real>&, const GradientView<Real>&, int64_t row, int64_t rows,
                         uint16_t* event_row, Real* values);
    bool (*is_supported)(Integrator, int poles, Pre, Post);
    // Non-zero entries of rows, `stride` apart: writes indices, values and each row's number, returns the sum. Without
    // val, -1 where an entry is not one.
    int64_t (*compress_rows)(const Real* x, int64_t stride, int64_t rows, int64_t n, const Real* then, int32_t* idx,
                             Real* val, int32_t* counts);
    void (*transpose)(const Real* source, int64_t source_stride, int64_t rows, int64_t columns, Real* target,
                      int64_t target_stride, int64_t filled);
    void (*add_rows)(Real* target, const Real* source, int64_t n);
    Product<Real> product;
    BlockedProduct<Real> blocked_product;
    // See convolution_row.hpp.
    void (*convolve)(const ConvolutionView<Real>&, int64_t row, const ConvolutionScratch<Real>&, Real* out,
                     uint8_t* winner);
    void (*expand)(const ConvolutionView<Real>&, const Real* g, const uint8_t* winner, const ConvolutionScratch<Real>&,
                   Real* plane, Real* bias);
    void (*convolve_back)(const ConvolutionView<Real>&, int64_t row, const Real* plane, const ConvolutionSums<Real>&,
                          const ConvolutionLow<Real>&);
    // See convolution_input.hpp.
    void (*convolution_input)(const ConvolutionView<Real>&, const ConvolutionInput<Real>&, const Real* plane,
                              Real* columns, Real* rows, Real* out);
};

struct KernelSet {
    Kernels<float> float32;
    Kernels<double> float64;
    int64_t (*compress_bytes)(const uint8_t* x, int64_t stride, int64_t rows, int64_t n, const uint8_t* then,
                              int32_t* idx, float* val, int32_t* counts);
};

}  // namespace sparse_backend
