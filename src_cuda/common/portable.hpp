// Compiler differences that host and device code share, and the namespace that keeps variants apart.
//
// A kernel source is compiled once per instruction set. SPARSE_BACKEND_VARIANT names the namespace of
// that copy, so that the linker can never merge an inline function compiled for one instruction set into
// code that runs on another.
#pragma once

#include <stdint.h>

#ifndef SPARSE_BACKEND_VARIANT
#define SPARSE_BACKEND_VARIANT shared
#endif

#if defined(__CUDACC__)
#define SB_INLINE __host__ __device__ __forceinline__
#define SB_RESTRICT __restrict__
#else
#define SB_INLINE inline __attribute__((always_inline))
#define SB_RESTRICT __restrict__
#endif
