// The product of both similarity kernels: a strip of A B^T that lives in registers and a small buffer, never [N, K].
//
// A: row-major, [kTileRows, D], leading dimension lda. B: packed, kTileColumns rows of B side by side: [D][kTileColumns].
#pragma once

#include "simd.h"

namespace edgead {
namespace EDGEAD_ISA {

// As many accumulators as fit the register file beside two vectors of B and one of A.
#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTileVectors = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVectors = 2;
#elif defined(__aarch64__)
constexpr int kTileRows = 8, kTileVectors = 3;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

// out[i * ldo + j] = sum over d of a[i][d] b[d][j], one accumulator an element, d ascending.
static inline void multiply_tile(const float* a, int64_t lda, const float* b, int64_t depth, float* out, int64_t ldo) {
  Vec sum[kTileRows][kTileVectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    Vec column[kTileVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kTileVectors; ++j) column[j] = load(b + d * kTileColumns + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const Vec value = splat(a[i * lda + d]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileVectors; ++j) sum[i][j] += value * column[j];
    }
  }
  for (int i = 0; i < kTileRows; ++i)
    for (int j = 0; j < kTileVectors; ++j) store(out + i * ldo + j * kLanes, sum[i][j]);
}

// Puts `count` rows of 32-bit words side by side: packed[d * kTileColumns + j] = rows[j * stride + d]; missing ones are 0.
static inline void pack_columns(const uint32_t* rows, int64_t stride, int64_t count, int64_t depth, uint32_t* packed) {
  for (int64_t d0 = 0; d0 < depth; d0 += 16) {
    const int64_t d1 = least(d0 + 16, depth);
    for (int64_t j = 0; j < kTileColumns; ++j)
      for (int64_t d = d0; d < d1; ++d) packed[d * kTileColumns + j] = j < count ? rows[j * stride + d] : 0;
  }
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
