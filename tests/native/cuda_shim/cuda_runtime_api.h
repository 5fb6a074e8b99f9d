// What the kernel sources use of CUDA, for the host: blocks are loops, the threads of a block are fibers.
//
// A fiber runs until it waits: at __syncthreads() for every thread of its block, at a warp collective for the lanes of
// its mask. A collective that some lane never reaches, or that lanes reach with different masks or different functions,
// fails the launch with an exception that names the kernel. Fibers take turns in ascending order in one launch and in
// descending order in the next, so that a missing barrier shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __host__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct ShimIndex {
    unsigned x = 0, y = 0, z = 0;
};
inline thread_local ShimIndex threadIdx, blockIdx, blockDim, gridDim;

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101 };

cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
const char* cudaGetErrorString(cudaError_t error);

namespace shim {

enum class Collective { ballot, shuffle, shuffle_xor, match, sync };

// Waits for the lanes of the mask; returns what each of them brought (lanes outside the mask: 0).
const uint64_t* meet(unsigned mask, Collective kind, uint64_t value);
void meet_block();
unsigned lane();
void run(const char* kernel, unsigned blocks, unsigned threads, const std::function<void()>& thread);

template <class T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class T>
T from_bits(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class Kernel, class... Arguments>
void launch(const char* name, unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
    run(name, blocks, threads, [&] { kernel(arguments...); });
}

}  // namespace shim

inline void __syncthreads() { shim::meet_block(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { shim::meet(mask, shim::Collective::sync, 0); }

inline unsigned __ballot_sync(unsigned mask, bool predicate) {
    const uint64_t* values = shim::meet(mask, shim::Collective::ballot, predicate);
    unsigned result = 0;
    for (unsigned k = 0; k < 32; ++k) result |= unsigned(values[k]) << k;
    return result;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    return shim::from_bits<T>(shim::meet(mask, shim::Collective::shuffle, shim::to_bits(value))[from & 31]);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return shim::from_bits<T>(
        shim::meet(mask, shim::Collective::shuffle_xor, shim::to_bits(value))[(int(shim::lane()) ^ bits) & 31]);
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    const uint64_t* values = shim::meet(mask, shim::Collective::match, shim::to_bits(value));
    unsigned result = 0;
    for (unsigned k = 0; k < 32; ++k)
        if (mask >> k & 1 && values[k] == shim::to_bits(value)) result |= 1u << k;
    return result;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T atomicMax(T* address, T value) {
    const T before = *address;
    if (value > before) *address = value;
    return before;
}

#define SB_STRIP(...) __VA_ARGS__
#define SB_LAUNCH(kernel, blocks, threads, stream, ...) \
    ((void)(stream), shim::launch(#kernel, blocks, threads, SB_STRIP kernel, __VA_ARGS__))
