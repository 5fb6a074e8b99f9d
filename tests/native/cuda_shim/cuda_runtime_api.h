// What the kernel sources use of the CUDA runtime, for the host: blocks and threads become loops.
//
// Enough for kernels whose threads do not meet; barriers and warp collectives would need fibers.
#pragma once

#define __global__
#define __host__
#define __device__

struct ShimIndex {
    unsigned x = 0, y = 0, z = 0;
};
inline thread_local ShimIndex threadIdx, blockIdx, blockDim, gridDim;

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };

inline cudaError_t& shim_last_error() {
    static cudaError_t error = cudaSuccess;
    return error;
}
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = shim_last_error();
    shim_last_error() = cudaSuccess;
    return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

template <class Body>
void shim_launch(unsigned blocks, unsigned threads, Body&& body) {
    // What a device refuses: empty grids and blocks of more than 1024 threads.
    if (blocks == 0 || threads == 0 || threads > 1024) {
        shim_last_error() = cudaErrorInvalidConfiguration;
        return;
    }
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    for (unsigned block = 0; block < blocks; ++block)
        for (unsigned thread = 0; thread < threads; ++thread) {
            blockIdx = {block, 0, 0};
            threadIdx = {thread, 0, 0};
            body();
        }
}

#define SB_STRIP(...) __VA_ARGS__
#define SB_LAUNCH(kernel, blocks, threads, stream, ...) \
    shim_launch(blocks, threads, [&] {                  \
        (void)(stream);                                 \
        (SB_STRIP kernel)(__VA_ARGS__);                 \
    })
