// What the *_cuda.cu files share. They know pointers and a stream: no allocation, no synchronisation, no Python.
//
// tests/emulation/cuda_on_host.h stands in for the CUDA headers where the kernels are run on the CPU, to check them on a machine
// without a GPU. Launches go through EDGEAD_LAUNCH for its sake.
#pragma once

#ifdef EDGEAD_CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define EDGEAD_LAUNCH(kernel, grid, block, stream, args) (kernel)<<<grid, block, 0, stream>>>(args)
#endif

#include <cstdint>

namespace edgead {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float to_float(float value) { return value; }
#ifndef EDGEAD_CUDA_ON_HOST
__device__ inline float to_float(__half value) { return __half2float(value); }
#endif

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Infinity and NaN without a header that differs between compilers.
__device__ inline float infinity() { return __int_as_float(0x7f800000); }
__device__ inline bool is_nan(float value) { return value != value; }

// *peak = max(*peak, value), NaN above all. Non-negative floats order like integers, negative ones like reversed unsigned
// integers; the bits of a positive NaN lie above those of infinity.
__device__ inline void atomic_peak(float* peak, float value) {
  if (is_nan(value)) value = __int_as_float(0x7fc00000);
  if (value >= 0 || is_nan(value))
    atomicMax(reinterpret_cast<int*>(peak), __float_as_int(value + 0.0f));  // -0 would order as the least integer
  else
    atomicMin(reinterpret_cast<unsigned*>(peak), static_cast<unsigned>(__float_as_int(value)));
}

}  // namespace edgead
