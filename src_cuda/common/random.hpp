// Counter-based random offsets: one number in [0, 1) per (key, batch element, neuron).
//
// splitmix64's finaliser (Steele, Lea & Flood, 2014) over a counter, so that a draw depends neither on
// threads nor on the device and leaves torch's generators alone.
#pragma once

#include "portable.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

SB_INLINE uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// 24 bits, so that the value is the same in float32 and float64.
template <class Real>
SB_INLINE Real sampling_offset(uint64_t key, uint64_t batch, uint64_t neuron) {
    return Real(mix(key ^ mix((batch << 32) | neuron)) >> 40) * Real(1.0 / 16777216.0);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
