// Scratch memory of one thread, laid out once per call.
#pragma once

#include "buffer.hpp"
#include "view.hpp"

namespace sparse_backend {

// Rows of a forward scan: state, step scratch, bit rows and carriers. Rows follow u, so that whole words of 64 entries
// can be read from it.
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

// Rows of a reverse scan; the dense one also holds the trajectory of a batch element.
template <class Real>
class ReverseMemory {
  public:
    ReverseMemory(const LayerView<Real>& view, const GradientView<Real>& grads, const Real* decay, bool dense)
        : forward_(view),
          rows_(15, view.padded),
          entries_(2 * largest_element(view, grads)),
          first_reset_(view.padded),
          scratch() {
        scratch.decay = const_cast<Real*>(decay);
        for (Real** row : {&scratch.mu, &scratch.carry, &scratch.lambda, &scratch.eta, &scratch.l, &scratch.spike,
                           &scratch.g_z, &scratch.g_m, &scratch.g_i, &scratch.current_sum, &scratch.spiked_l,
                           &scratch.reset_l, &scratch.entry_add, &scratch.plain, &scratch.trace.difference})
            *row = rows_.take();
        scratch.entry_threshold = entries_.get();
        scratch.entry_sigma = entries_.get() + largest_element(view, grads);
        scratch.first_reset = first_reset_.get();
        scratch.forward = forward_.cursor;
        if (dense) lay_trajectory(view, grads);
        if (grads.trace) lay_trace(view);
    }

  private:
    static int64_t largest_element(const LayerView<Real>& view, const GradientView<Real>& grads) {
        int64_t largest = 0;
        for (int64_t b = 0; grads.active.ptr && b < view.batch; ++b)
            largest = std::max(largest, grads.active.ptr[(b + 1) * view.steps] - grads.active.ptr[b * view.steps]);
        return largest;
    }

    void lay_trajectory(const LayerView<Real>& view, const GradientView<Real>& grads) {
        const bool sampled = view.gradient == Gradient::sampled, carries = view.post != Post::none;
        const bool current = grads.want_membrane || grads.want_gain || grads.want_synapse;
        const int64_t size = view.steps * view.padded;
        trajectory_.reserve((1 + carries + current + sampled) * size + view.padded);
        Real* next = trajectory_.get();
        scratch.u = next;
        scratch.m = carries ? next += size : scratch.u;
        // Without coefficient gradients i' is never read; u stands in for the address.
        scratch.i_new = current ? next += size : scratch.u;
        scratch.sigma = next + size;
    }

    void lay_trace(const LayerView<Real>& view) {
        TraceScratch<Real>& trace = scratch.trace;
        const int64_t entries = view.steps * view.padded + 16;  // appended in whole vectors
        trace.inputs = padded_width(view.inputs);
        trace_ranges_.reserve(2 * view.steps);
        trace_idx_.reserve(entries);
        trace_q_.reserve(entries + 2 * trace.inputs);
        trace.begin = trace_ranges_.get();
        trace.end = trace.begin + view.steps;
        trace.idx = trace_idx_.get();
        trace.q = trace_q_.get();
        trace.inner = trace.q + entries;
        trace.outer = trace.inner + trace.inputs;
    }

    ForwardScratch<Real> forward_;
    Rows<Real> rows_;
    Buffer<Real> entries_;
    Buffer<int32_t> first_reset_;
    Buffer<Real> trajectory_, trace_q_;
    Buffer<int32_t> trace_idx_;
    Buffer<int64_t> trace_ranges_;

  public:
    ReverseScratch<Real> scratch;
};

}  // namespace sparse_backend
