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

#if defined(__AVX512BF16__)
// The same over pairs of bfloat16: a word holds two neighbours of a row, `pairs` = D / 2. Sums are float32.
static inline void multiply_tile(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t pairs, float* out,
                                 int64_t ldo) {
  __m512 sum[kTileRows][kTileVectors] = {};
  for (int64_t d = 0; d < pairs; ++d) {
    __m512bh column[kTileVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kTileVectors; ++j) column[j] = (__m512bh)_mm512_loadu_si512(b + d * kTileColumns + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const __m512bh value = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * lda + d]));
#pragma GCC unroll 4
      for (int j = 0; j < kTileVectors; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], value, column[j]);
    }
  }
  for (int i = 0; i < kTileRows; ++i)
    for (int j = 0; j < kTileVectors; ++j) _mm512_storeu_ps(out + i * ldo + j * kLanes, sum[i][j]);
}
#endif

// Puts `count` rows of 32-bit words side by side: packed[d * kTileColumns + j] = rows[j * stride + d]; missing ones are 0.
template <class Word>
static inline void pack_columns(const Word* rows, int64_t stride, int64_t count, int64_t depth, Word* packed) {
  static_assert(sizeof(Word) == 4, "words of 32 bits");
  int64_t d = 0;
#if defined(__AVX512F__)
  if (count == kTileColumns) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
    for (; d < depth; ++d)
      for (int j = 0; j < kTileVectors; ++j)
        _mm512_storeu_si512(packed + d * kTileColumns + j * kLanes,
                            _mm512_i32gather_epi32(at, rows + j * kLanes * stride + d, 4));
  }
#endif
  for (; d < depth; d += 16) {
    const int64_t end = least(d + 16, depth);
    for (int64_t j = 0; j < kTileColumns; ++j)
      for (int64_t e = d; e < end; ++e) packed[e * kTileColumns + j] = j < count ? rows[j * stride + e] : Word{};
  }
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
