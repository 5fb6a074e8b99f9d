// Arguments of the CUDA neuron scan: a Layer with a dense current, on a stream of the caller's.
#pragma once

#include "../common/layer.hpp"

namespace sparse_backend {

struct Scan : Layer {
    int64_t stream = 0;                                 // cudaStream_t of the current device
    bool spikes_bytes = false;                          // spikes are written as uint8 s instead of graded * s
    int64_t u_out = 0, u_stride_t = 0, u_stride_b = 0;  // membrane that is compared with the threshold
};

// Enqueues the scan and returns cudaGetLastError(); -1 for a structure without a kernel.
int launch_neuron_scan(const Scan& scan);

}  // namespace sparse_backend
