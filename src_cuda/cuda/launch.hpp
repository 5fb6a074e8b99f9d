// Launching kernels: on the caller's device and stream, errors reported with the operator's name.
//
// The tests' host shim of the CUDA runtime defines SB_LAUNCH itself, so that the same kernel sources run without a
// device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#if !defined(SB_LAUNCH)
#define SB_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

namespace sparse_backend {

// Where a call runs. Python passes torch's current stream of the tensors' device.
struct Place {
    int device = 0;
    int64_t stream = 0;
};

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("sparse_backend: ") + what + ": " + cudaGetErrorString(status));
}

// Makes the device of a call the current one, and the caller's again afterwards.
class OnDevice {
  public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
        changed_ = device != before_;
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

// Launches a kernel at a place; `what`, a literal, names operator and kernel in errors.
#define SB_RUN(what, kernel, blocks, threads, place, ...)                                                      \
    do {                                                                                                       \
        const int64_t number_of_blocks = (blocks);                                                             \
        if (number_of_blocks > 0x7FFFFFFF) throw std::invalid_argument(what ": too many blocks");              \
        const OnDevice guard((place).device);                                                                  \
        SB_LAUNCH(kernel, unsigned(number_of_blocks), threads, reinterpret_cast<cudaStream_t>((place).stream), \
                  __VA_ARGS__);                                                                                \
        check(cudaGetLastError(), what);                                                                       \
    } while (false)

constexpr int64_t divide_up(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace sparse_backend
