// Vectors of the instruction set this translation unit is compiled for, through the compiler's vector extension.
//
// The *_cpu.cc files are compiled once per instruction set, each time into another namespace (EDGEAD_ISA). They and this
// header use nothing from the C++ library with external linkage: the linker could keep the copy of an inline function
// that was compiled for AVX-512 and hand it to a machine without.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "thread_pool.h"

#ifndef EDGEAD_ISA
#error "EDGEAD_ISA names the instruction set: csrc/CMakeLists.txt sets it"
#endif

namespace edgead {
namespace EDGEAD_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecMask __attribute__((vector_size(kLanes * 4)));  // -1 or 0 in each lane

static inline Vec load(const float* from) {
  Vec v;
  memcpy(&v, from, sizeof v);
  return v;
}

static inline void store(float* to, Vec v) { memcpy(to, &v, sizeof v); }

// Minus zero, because plus zero is no identity: -0 + 0 is 0, and the addition would stay.
static inline Vec splat(float value) { return value - Vec{}; }

static inline bool any(VecMask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  uint64_t half[2];
  memcpy(half, &mask, sizeof half);
  return (half[0] | half[1]) != 0;
#endif
}

static inline VecMask lane_numbers() {
  int32_t number[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) number[lane] = lane;
  VecMask numbers;
  memcpy(&numbers, number, sizeof numbers);
  return numbers;
}

static inline float sum_of(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// One byte a lane: 1 or 0.
static inline void store_bytes(uint8_t* to, VecMask mask) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  const Bytes bytes = __builtin_convertvector(mask, Bytes) & 1;
  memcpy(to, &bytes, sizeof bytes);
}

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Waking a thread costs about 20 us: no more threads than the work pays for. One operation: a vector multiply-add.
static inline int worth(int threads, int64_t operations) {
  constexpr int64_t kPerThread = 60000;
  return static_cast<int>(most(least(resolve_threads(threads, 1 << 20), operations / kPerThread), 1));
}

// parallel_for over a lambda: run(task, worker).
template <class Run>
static inline void parallel(int64_t tasks, int threads, Run& run) {
  parallel_for(
      tasks, threads,
      [](void* context, int64_t task, int worker) { (*static_cast<Run*>(context))(task, worker); }, &run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
