// A layer's arguments as Python passes them, for the CPU and the CUDA module alike.
#pragma once

#include <cstdint>
#include <limits>

namespace sparse_backend {

enum DType : int { float32 = 0, float64 = 1, uint8 = 2, boolean = 3, float16 = 4, bfloat16 = 5 };

// Addresses are integers (0: absent); field names are those that Python sets.
struct Coefficient {
    int64_t address = 0;
    bool per_neuron = false;
};

struct Layer {
    int dtype = float32;
    int64_t steps = 0, batch = 0, width = 0, inputs = 0, threads = 1;
    int64_t current = 0, current_stride_t = 0, current_stride_b = 0;
    int64_t in_ptr = 0, in_idx = 0, in_val = 0, weight_t = 0, bias = 0;
    Coefficient membrane, gain, synapse, leak, threshold, reset, graded;
    int64_t m0 = 0, i0 = 0, cuts = 0;
    int integrator = 0, poles = 1, pre = 0, post = 0;
    bool fires = true;
    int surrogate = 0;
    double surrogate_p0 = 0, surrogate_p1 = 0, surrogate_window = std::numeric_limits<double>::infinity();
    int gradient = 0;
    double level = 0;
    int64_t key = 0;
    bool active_includes_spikes = false, want_spikes = false, want_active = false, want_resets = false;
    int carriers = 0;
    int64_t spikes = 0, spikes_stride_t = 0, spikes_stride_b = 0;
    int64_t membrane_out = 0, membrane_stride_t = 0, membrane_stride_b = 0;
    int64_t m_last = 0, i_last = 0, carrier_m_last = 0, carrier_i_last = 0;
};

}  // namespace sparse_backend
