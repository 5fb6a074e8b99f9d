// Arguments of the CUDA kernels as Python passes them: device addresses are integers, 0 is absent.
//
// Rows of events are batch-major, row = b * steps + t. A "word" is 32 neighbouring neurons, one warp's work; bit masks
// have one uint32 per (row, word).
#pragma once

#include "../common/layer.hpp"
#include "launch.hpp"

namespace sparse_backend {

constexpr int lanes = 32;
constexpr int block_steps = 16;  // steps whose currents a warp gathers ahead; checkpoints are this far apart

constexpr int64_t words_of(int64_t width) { return divide_up(width, lanes); }

// A layer and what its forward scan leaves.
struct DeviceLayer : Layer, Place {
    int64_t spike_bits = 0, active_bits = 0, reset_bits = 0;  // uint32 [B, words, T]
    int64_t active_before = 0;                                // int32 [B, words, T]: entries staged before the step
    int64_t staged_u = 0;                                     // [B, words, region]
    int64_t staged_carriers = 0;                              // [B, words, region, carriers]
    int64_t region = 0;
    int64_t summary = 0;      // int64 [2]: largest number of entries of a (b, word); whether a spike's value is not one
    int64_t checkpoints = 0;  // [ceil(T / block_steps), poles, B, N]: the state before every block_steps-th step
};

// Non-zero entries as bits, uint32 at b * stride_b + t * stride_t + word * stride_word.
struct BitRows : Place {
    int64_t bits = 0, stride_b = 0, stride_t = 0, stride_word = 0;
    int64_t steps = 0, batch = 0, width = 0;
    int64_t ptr = 0;  // int64 [B * T + 1]
};

// A dense [T, B, N] tensor with a contiguous last axis.
struct DenseInput : BitRows {
    int64_t x = 0, x_stride_t = 0, x_stride_b = 0;
    int dtype = float32;
    int64_t odd = 0;  // int32 [1]: set where an entry is neither zero nor one
};

// The lists that a forward scan's bits become.
struct SpikeList : BitRows {
    int64_t idx = 0, val = 0;  // val: graded value of each spike, or 0
    int dtype = float32;
    Coefficient graded;
};

struct ActiveList : BitRows {
    int64_t idx = 0, u = 0, carriers = 0;
    int64_t before = 0, staged_u = 0, staged_carriers = 0, region = 0;
    int carrier_count = 0, dtype = float32;
};

// Sums over time that a reverse scan keeps per (b, n); the rows of ReverseScan.sums and the bits of `wanted`.
enum Sum : int {
    sum_current = 0,  // of lambda: the gradient of the bias, or of a constant current
    sum_membrane,
    sum_gain,
    sum_synapse,
    sum_leak,
    sum_threshold,
    sum_reset,
    sum_graded,
    sum_count
};

// Steps [begin, end) of a reverse scan; ranges are visited from the last to the first.
struct ReverseScan {
    int64_t begin = 0, end = 0;
    int64_t active_ptr = 0, active_idx = 0, active_u = 0, active_carriers = 0;
    int64_t spike_ptr = 0, spike_idx = 0, reset_ptr = 0, reset_idx = 0;
    int64_t g_active = 0, g_spikes = 0, g_spikes_stride_t = 0, g_spikes_stride_b = 0;
    int64_t g_membrane = 0, g_membrane_stride_t = 0, g_membrane_stride_b = 0, g_m_last = 0, g_i_last = 0;
    int64_t mu = 0, carry = 0;                                              // [B, N], between ranges
    int64_t d_current = 0, d_current_stride_t = 0, d_current_stride_b = 0;  // its first row is that of step begin
    int64_t d_m0 = 0, d_i0 = 0, sums = 0;                                   // sums: [sum_count, B, N]
    int wanted = 0;
    bool recompute = false;  // the trajectory comes from checkpoints instead of event lists
    bool drawn = false;      // recompute: the spikes' gradient counts at listed entries, sigma' everywhere
};

// Products of lambda with the input and the weights, for one chunk of steps at a time.
struct Products : Place {
    int dtype = float32;
    int64_t steps = 0, batch = 0, inputs = 0, width = 0, chunk = 0;
    int64_t in_ptr = 0, in_idx = 0, in_val = 0;
    int64_t counts = 0;                    // int32 [chunks, N_in, B], zero at first
    int64_t offsets = 0;                   // int64 [chunks * N_in * B + 1], their running sum
    int64_t grouped = 0, grouped_val = 0;  // [E]: row of lambda within its chunk (int32), value
    int64_t lambda = 0;                    // [chunk, B, N]
    int64_t weight_t = 0, d_weight_t = 0;  // [N_in, N]
    int64_t low_ptr = 0, low_idx = 0, d_low = 0;
};

// Moves between event lists and dense tensors, steps [begin, end) of them.
struct Expansion : Place {
    int dtype = float32;
    int64_t steps = 0, batch = 0, width = 0, begin = 0, end = 0;
    int64_t ptr = 0, idx = 0, val = 0;              // val: of the events, or 0 for ones
    int64_t dense = 0, stride_t = 0, stride_b = 0;  // its first row is that of step begin
};

// All enqueue work on the call's stream and return; they throw where a launch fails.
void forward_scan(const DeviceLayer& layer);
void reverse_scan(const DeviceLayer& layer, const ReverseScan& reverse);
void mark_entries(const DenseInput& input);
void count_rows(const BitRows& rows);
void write_entries(const DenseInput& input, int64_t idx, int64_t val, int val_dtype);
void write_spikes(const SpikeList& list);
void write_active(const ActiveList& list);
void count_inputs(const Products& products);
void group_inputs(const Products& products);
void weight_gradient(const Products& products, int64_t chunk);
void input_gradient(const Products& products, int64_t begin, int64_t end);
void scatter(const Expansion& expansion);
void gather(const Expansion& expansion);

bool is_supported(const Layer& layer);

}  // namespace sparse_backend
