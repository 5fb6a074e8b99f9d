// The untyped arguments of the reverse scans, and the drivers that run the kernels over the batch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../common/layer.hpp"
#include "arguments.hpp"
#include "collected_events.hpp"

namespace sparse_backend {

constexpr int64_t padded_width(int64_t n) { return (n + 15) / 16 * 16; }

// How d_weight is computed: automatic is the spike form.
enum WeightForm : int { weight_auto = 0, weight_spike = 1, weight_trace = 2 };

struct Gradients {
    int64_t active_ptr = 0, active_idx = 0, active_u = 0, active_carriers = 0;
    int64_t spike_ptr = 0, spike_idx = 0, reset_ptr = 0, reset_idx = 0;
    int64_t g_active = 0, g_spikes = 0, g_spikes_stride_t = 0, g_spikes_stride_b = 0;
    int64_t g_membrane = 0, g_membrane_stride_t = 0, g_membrane_stride_b = 0, g_m_last = 0, g_i_last = 0;
    int64_t low_ptr = 0, low_idx = 0, d_low = 0;
    int64_t weight = 0, d_input = 0;  // [N, n_in]; [B, T, n_in padded], the input gradient at every entry
    int64_t d_weight = 0, d_bias = 0, d_current = 0, d_current_stride_t = 0, d_current_stride_b = 0;
    int form = weight_auto;                         // of d_weight
    int64_t x = 0, x_stride_t = 0, x_stride_b = 0;  // dense input, for the trace form
    int64_t d_current_sum = 0, d_m0 = 0, d_i0 = 0;
    int64_t d_membrane = 0, d_gain = 0, d_synapse = 0, d_leak = 0, d_threshold = 0, d_reset = 0, d_graded = 0;
};

struct ForwardResult {
    int dtype = float32;
    int64_t threads = 1;
    CollectedEvents spikes, resets;
    CollectedEvents active;      // values: u; extras: the carriers of the entry
    std::vector<double> graded;  // per neuron

    // val: of every spike.
    void write_spike_values(int64_t val) const;
};

bool needs_resets(const Layer& layer);
std::unique_ptr<ForwardResult> run_forward(const Layer& layer);
// Sparse (from saved events) or dense (recomputing the trajectory) reverse scan.
void run_backward(const Layer& layer, const Gradients& gradients, bool dense);
// The non-zero entries, without values where all are ones; those of bytes are float32. Null when more than limit of the
// entries are non-zero.
std::unique_ptr<CollectedEvents> run_compress(int64_t x, int64_t steps, int64_t batch, int64_t inputs, int64_t stride_t,
                                              int64_t stride_b, int dtype, double limit, int64_t threads);
// c [rows, columns padded] = a [rows, inner], whose rows are a_stride apart, times b [inner, columns].
void run_multiply(int64_t a, int64_t a_stride, int64_t rows, int64_t b, int64_t inner, int64_t columns, int64_t c,
                  int dtype, int64_t threads);
// A Linear: out [rows, width] = x [rows, inputs], whose rows are x_stride apart, times weight [width, inputs]
// transposed, plus bias [width] unless it is 0.
struct LinearAddress {
    int64_t x, x_stride, rows, weight, inputs, width, bias, out;
};
// block: how the sums are cut, see BlockedProduct.
void run_linear(const LinearAddress& in, int64_t block, int dtype, int64_t threads);
void run_transpose(int64_t source, int64_t target, int64_t rows, int64_t columns, int64_t source_stride, int dtype,
                   int64_t threads);
void run_scatter(int64_t ptr, int64_t idx, int64_t val, int64_t steps, int64_t batch, int64_t width, int64_t out,
                 int64_t stride_t, int64_t stride_b, int dtype, int64_t threads);
void run_gather(int64_t ptr, int64_t idx, int64_t steps, int64_t batch, int64_t source, int64_t stride_t,
                int64_t stride_b, int64_t out, int dtype, int64_t threads);

}  // namespace sparse_backend
