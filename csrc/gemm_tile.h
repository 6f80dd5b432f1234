// The product of both similarity kernels: a strip of A B^T that lives in registers and a small buffer, never [N, K].
//
// A: row-major, [kTileRows, D], leading dimension lda. B: packed, kTileColumns rows of B side by side: [D][kTileColumns].
#pragma once

#include "simd.h"

#ifdef EDGEAD_TILES_ON_HOST
#include "tiles_on_host.h"  // tests/emulation: tiles as arrays, for machines without AMX
#endif

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
template <int kRows = kTileRows>
static inline void multiply_tile(const float* a, int64_t lda, const float* b, int64_t depth, float* out, int64_t ldo) {
  Vec sum[kRows][kTileVectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    Vec column[kTileVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kTileVectors; ++j) column[j] = load(b + d * kTileColumns + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec value = splat(a[i * lda + d]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileVectors; ++j) sum[i][j] += value * column[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
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
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kTileVectors; ++j) _mm512_storeu_ps(out + i * ldo + j * kLanes, sum[i][j]);
}
#endif

#if defined(EDGEAD_TILES)
// The same on AMX: 2 x 2 tiles of 16 x 16 sums. Words come in steps of 16, and the thread must hold a TileSession.
constexpr int kProductRows = 32, kProductWords = 16;

class TileSession {
 public:
  TileSession() {
    alignas(64) uint8_t setting[64] = {};
    setting[0] = 1;  // palette 1: eight tiles
    for (int tile = 0; tile < 8; ++tile) {
      setting[16 + 2 * tile] = 64;  // bytes of a row
      setting[48 + tile] = 16;      // rows
    }
    _tile_loadconfig(setting);
  }
  ~TileSession() { _tile_release(); }
};

static inline void multiply_product(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t words, float* out,
                                    int64_t ldo) {
  static_assert(kTileColumns == 32, "two tiles beside each other");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t d = 0; d < words; d += kProductWords) {
    _tile_loadd(4, a + d, lda * 4);
    _tile_loadd(5, a + 16 * lda + d, lda * 4);
    _tile_loadd(6, b + d * kTileColumns, kTileColumns * 4);
    _tile_loadd(7, b + d * kTileColumns + 16, kTileColumns * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, ldo * 4);
  _tile_stored(1, out + 16, ldo * 4);
  _tile_stored(2, out + 16 * ldo, ldo * 4);
  _tile_stored(3, out + 16 * ldo + 16, ldo * 4);
}
#else
constexpr int kProductRows = kTileRows, kProductWords = 1;
class TileSession {
 public:
  TileSession() {}
};

template <class Word>
static inline void multiply_product(const Word* a, int64_t lda, const Word* b, int64_t words, float* out, int64_t ldo) {
  multiply_tile(a, lda, b, words, out, ldo);
}
#endif

#if defined(__AVX512F__)
// 16 rows of 16 words, transposed in registers: to[d * to_stride + j] = from[j * from_stride + d].
static inline void transpose16(const void* from, int64_t from_stride, void* to, int64_t to_stride) {
  __m512 row[16], part[16];
  for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_ps(static_cast<const float*>(from) + i * from_stride);
  for (int i = 0; i < 16; i += 2) {
    part[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
    part[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; ++half) {
      const __m512d low = _mm512_castps_pd(part[i + half]), high = _mm512_castps_pd(part[i + half + 2]);
      row[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      row[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  for (int i = 0; i < 4; ++i) {  // row[4 q + i] holds columns i, i + 4, i + 8, i + 12 of rows 4 q .. 4 q + 3
    const __m512 low = _mm512_shuffle_f32x4(row[i], row[4 + i], 0x44);
    const __m512 low_end = _mm512_shuffle_f32x4(row[i], row[4 + i], 0xee);
    const __m512 high = _mm512_shuffle_f32x4(row[8 + i], row[12 + i], 0x44);
    const __m512 high_end = _mm512_shuffle_f32x4(row[8 + i], row[12 + i], 0xee);
    part[i] = _mm512_shuffle_f32x4(low, high, 0x88);
    part[i + 4] = _mm512_shuffle_f32x4(low, high, 0xdd);
    part[i + 8] = _mm512_shuffle_f32x4(low_end, high_end, 0x88);
    part[i + 12] = _mm512_shuffle_f32x4(low_end, high_end, 0xdd);
  }
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(static_cast<float*>(to) + i * to_stride, part[i]);
}
#endif

// Puts `count` rows of 32-bit words side by side: packed[d * kTileColumns + j] = rows[j * stride + d]; missing ones are 0.
template <class Word>
static inline void pack_columns(const Word* rows, int64_t stride, int64_t count, int64_t depth, Word* packed) {
  static_assert(sizeof(Word) == 4, "words of 32 bits");
  int64_t d = 0;
#if defined(__AVX512F__)
  for (; count == kTileColumns && d + 16 <= depth; d += 16)
    for (int j = 0; j < kTileColumns; j += 16)
      transpose16(rows + j * stride + d, stride, packed + d * kTileColumns + j, kTileColumns);
#endif
  for (; d < depth; d += 16) {
    const int64_t end = least(d + 16, depth);
    for (int64_t j = 0; j < kTileColumns; ++j)
      for (int64_t e = d; e < end; ++e) packed[e * kTileColumns + j] = j < count ? rows[j * stride + e] : Word{};
  }
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
