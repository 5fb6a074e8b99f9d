// Scratch memory of one thread, laid out once per call.
#pragma once

#include "buffer.hpp"
#include "view.hpp"

namespace sparse_backend {

// Rows of a forward scan: state, step scratch, bit rows and carriers. Rows follow u, so that whole words of 64 entries
// can be read from it, and the current, whose last element may be written in whole tiles.
template <class Real>
class ForwardScratch {
  public:
    explicit ForwardScratch(const LayerView<Real>& view)
        : rows_(8 + 3 * view.carrier_count, view.padded), words_(3, (view.padded + 63) / 64), cursor() {
        for (Real** row :
             {&cursor.m, &cursor.i, &cursor.current, &cursor.u, &cursor.z, &cursor.sum, &cursor.m_prev, &cursor.i_prev})
            *row = rows_.take();
        cursor.carrier_m = rows_.take(view.carrier_count);
        cursor.carrier_i = rows_.take(view.carrier_count);
        cursor.carrier_u = rows_.take(view.carrier_count);
        cursor.bits.fired = words_.take();
        cursor.bits.near = words_.take();
        cursor.bits.reset = words_.take();
        cursor.bits.last = ~uint64_t(0) >> ((64 - view.width % 64) % 64);
    }

  private:
    Rows<Real> rows_;
    Rows<uint64_t> words_;

  public:
    ForwardCursor<Real> cursor;
};

// What one thread needs to run the reverse scan of one view of the neurons over one slot of the batch.
template <class Real>
class ReverseMemory {
  public:
    ReverseMemory(const LayerView<Real>& view, const GradientView<Real>& grads, const Real* decay, bool dense)
        : forward_(view),
          rows_(11 + (dense ? 2 * reverse_steps : 0), view.padded),
          first_reset_(view.padded),
          scratch() {
        scratch.decay = decay;
        for (Real** row :
             {&scratch.mu, &scratch.carry, &scratch.row, &scratch.eta, &scratch.l, &scratch.spike, &scratch.element_sum,
              &scratch.spiked_l, &scratch.reset_l, &scratch.entry_add, &scratch.plain})
            *row = rows_.take();
        if (dense)
            for (Real** rows : {&scratch.g_z, &scratch.g_m}) *rows = rows_.take(reverse_steps);
        scratch.first_reset = first_reset_.get();
        scratch.forward = forward_.cursor;
        scratch.chunk_rows = chunk_rows(view, dense);
        scratch.piece_rows = piece_rows(view);
        lambda_.reserve(scratch.chunk_rows * view.padded);
        scratch.lambda = lambda_.get();
        if (dense) lay_trajectory(view, grads);
        if (grads.trace)
            lay_trace(view);
        else if (grads.want_weight && rows_in(short_row, view) == 0)
            lay_buckets(view);
        event_row_.reserve(most_events(view, grads) + event_row_group);
        scratch.event_row = event_row_.get();
    }

  private:
    // Rows of dW up to this size are added to at every event: sorting the events first costs more.
    static constexpr int64_t short_row = 128;

    static int64_t rows_in(int64_t bytes, const LayerView<Real>& view) {
        return bytes / (view.padded * int64_t(sizeof(Real)));
    }

    // As many rows as fit into a part of L2, so that inputs have several events in them. The dense scan needs the
    // trajectory of a batch element at once.
    static int64_t chunk_rows(const LayerView<Real>& view, bool dense) {
        const int64_t fit = std::clamp<int64_t>(rows_in(448 << 10, view), 64, 1024);
        return std::min(std::max(fit, dense ? view.steps : 0), view.steps * view.batch);
    }

    // As many as fit into a part of L1.
    static int64_t piece_rows(const LayerView<Real>& view) {
        return std::clamp<int64_t>(rows_in(16 << 10, view), 8, event_block_rows);
    }

    // Of any list, in a block of rows.
    static int64_t most_events(const LayerView<Real>& view, const GradientView<Real>& grads) {
        const int64_t rows = view.steps * view.batch;
        const auto most = [&](const EventList<Real>& list, int64_t columns) {
            return list.ptr ? std::min(list.ptr[rows], std::min(rows, event_block_rows) * columns) : 0;
        };
        return std::max(
            {most(view.input, view.inputs), most(grads.low, view.inputs), most(grads.active, view.columns)});
    }

    void lay_trajectory(const LayerView<Real>& view, const GradientView<Real>& grads) {
        const bool sampled = view.gradient == Gradient::sampled, carries = view.post != Post::none;
        const bool current = grads.want_membrane || grads.want_gain || grads.want_synapse;
        const int64_t size = view.steps * view.padded;
        trajectory_.reserve((carries + current + sampled) * size + reverse_steps * view.padded);
        Real* next = trajectory_.get();
        const auto take = [&](bool wanted) {
            Real* taken = next;
            if (wanted) next += size;
            return taken;
        };
        // Without carries m is u; without coefficient gradients i' is never read.
        scratch.m = take(carries);
        scratch.i_new = take(current);
        scratch.sigma = next;
    }

    void lay_trace(const LayerView<Real>& view) {
        TraceScratch<Real>& trace = scratch.trace;
        const int64_t entries = view.steps * view.padded + 16;  // appended in whole vectors
        trace.inputs = padded_width(view.inputs);
        trace_ranges_.reserve(2 * view.steps);
        trace_idx_.reserve(entries);
        trace_q_.reserve(entries + view.padded + 2 * trace.inputs);
        trace.begin = trace_ranges_.get();
        trace.end = trace.begin + view.steps;
        trace.idx = trace_idx_.get();
        trace.q = trace_q_.get();
        trace.difference = trace.q + entries;
        trace.inner = trace.difference + view.padded;
        trace.outer = trace.inner + trace.inputs;
    }

    void lay_buckets(const LayerView<Real>& view) {
        const int64_t events = std::min(scratch.chunk_rows, event_block_rows) * view.inputs;
        bucket_begin_.reserve(view.inputs + 2);
        bucket_row_.reserve(events);
        if (view.input.val) bucket_val_.reserve(events);
        scratch.buckets = {bucket_begin_.get(), bucket_row_.get(), bucket_val_.get()};
    }

    ForwardScratch<Real> forward_;
    Rows<Real> rows_;
    Buffer<int32_t> first_reset_;
    Buffer<Real> lambda_, trajectory_, trace_q_;
    Buffer<int32_t> trace_idx_;
    Buffer<int64_t> trace_ranges_;
    Buffer<int32_t> bucket_begin_;
    Buffer<uint16_t> bucket_row_, event_row_;
    Buffer<Real> bucket_val_;

  public:
    ReverseScratch<Real> scratch;
};

}  // namespace sparse_backend
