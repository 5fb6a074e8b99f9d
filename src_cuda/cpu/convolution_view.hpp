// Arguments of the event-driven convolution: plain data from the driver (compiled once) to the kernels (compiled per
// instruction set).
//
// Positions are those of one channel's plane, row by row. Inside, planes are [position, channel] with channels padded
// to 16; outside they are torch's [channel, position].
#pragma once

#include <stdint.h>

#include "product.hpp"

namespace sparse_backend {

// One product of an input position: the output position that it reaches and the kernel entry on the way, both as
// offsets of padded rows.
struct Tap {
    int32_t to, kernel;
};

template <class Real>
struct ConvolutionView {
    int64_t steps, batch;
    int64_t in_positions, taps;           // of an input plane; of the kernel
    int64_t channels, padded, positions;  // of the output
    int64_t outputs;                      // positions after max pooling, if there is any
    int64_t pooled, window;               // positions after max pooling and the size of a window; pooled 0: no pooling
    const int32_t* tap_begin;             // [in_positions + 1]
    const Tap* tap;
    const int32_t* members;  // [pooled, window], output positions as offsets of padded rows
    const int64_t* in_ptr;   // events of the input [B * T + 1], index channel * in_positions + position
    const int32_t* in_idx;
    const Real* in_val;    // null: every value is one
    const Real* weight_t;  // [channels in * taps, padded]
    const Real* bias;      // padded row
};

// What arrives at the output, and where the sums of a fixed range of rows go.
template <class Real>
struct ConvolutionSums {
    Real *weight_t, *bias;  // or null
};

// Entries of the input where the gradient is wanted.
template <class Real>
struct ConvolutionLow {
    const int64_t* ptr;  // or null
    const int32_t* idx;
    Real* out;
};

// For the gradient at every entry of the input: the kernel as a matrix [channels, columns], packed, whose columns are
// [taps, channels_by_four]; and for each of the view's taps where in [positions, columns] its product is found.
template <class Real>
struct ConvolutionInput {
    const Product<Real>* product;
    const Real* kernel;
    int64_t columns, channels, channels_by_four;
    const int32_t* column;
};

// One thread's planes.
template <class Real>
struct ConvolutionScratch {
    Real* plane;   // [positions, padded]
    Real* pooled;  // [pooled, padded]
};

}  // namespace sparse_backend
