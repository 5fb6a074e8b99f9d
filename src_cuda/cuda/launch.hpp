// Launching a kernel. The tests' host shim of the CUDA runtime defines SB_LAUNCH itself, so that the same kernel
// sources run without a device.
#pragma once

#include <cuda_runtime_api.h>

#if !defined(SB_LAUNCH)
#define SB_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif
