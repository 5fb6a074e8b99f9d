// The untyped arguments of the event-driven convolution, and its drivers.
#pragma once

#include <cstdint>

namespace sparse_backend {

// Addresses are integers (0: absent). pool_height 0: no max pooling.
struct Convolution {
    int dtype = 0;
    int64_t steps = 0, batch = 0, threads = 1;
    int64_t in_channels = 0, in_height = 0, in_width = 0, channels = 0;
    int64_t kernel_height = 0, kernel_width = 0, stride_y = 1, stride_x = 1, padding_y = 0, padding_x = 0;
    int64_t dilation_y = 1, dilation_x = 1, pool_height = 0, pool_width = 0, pool_stride_y = 1, pool_stride_x = 1;
    int64_t in_ptr = 0, in_idx = 0, in_val = 0;  // events [B * T]
    int64_t weight_t = 0, bias = 0;              // [in_channels * kernel, padded channels], padded row
    int64_t winner = 0;                          // uint8 [B * T, pooled positions, padded channels]
};

struct ConvolutionGradients {
    int64_t g = 0, g_stride_t = 0, g_stride_b = 0;  // dL/d out, [T, B, channels * positions]
    int64_t low_ptr = 0, low_idx = 0, d_low = 0;    // entries of the input where the gradient is wanted
    int64_t d_weight_t = 0, d_bias = 0;             // as weight_t and bias
    int64_t kernel = 0, d_input = 0;                // [channels, taps, in_channels by four]; [B * T, inputs]
};

// out: [T, B, channels * positions], strides in entries.
void run_convolution(const Convolution& convolution, int64_t out, int64_t out_stride_t, int64_t out_stride_b);
void run_convolution_backward(const Convolution& convolution, const ConvolutionGradients& gradients);

}  // namespace sparse_backend
