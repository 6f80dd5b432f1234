// Two passes over a block of patches. First a product with all centroids, in bfloat16 where the processor multiplies it,
// gives s = |c|^2 - 2xc with a proven bound E on its error. Then the centroids with s - E <= min(s + E) are measured exactly:
// mostly one. Both passes work on x - m and c - m, with m near the middle of the centroids, which makes E small.
#include "kmeans_assign.h"

#include "gemm_tile.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

#if defined(__AVX512BF16__)
using Word = uint32_t;  // two bfloat16
constexpr int64_t kElements = 2;
constexpr int64_t kBlockRows = 96 / kProductRows * kProductRows;
#else
using Word = float;
constexpr int64_t kElements = 1;
constexpr int64_t kBlockRows = 5 * kProductRows;
#endif
// A block's rows, its strip of scores [kBlockRows, kStripColumns] and a packed panel fit the second-level cache together.
constexpr int64_t kStripColumns = 512 / kTileColumns * kTileColumns;
constexpr int64_t kStripPitch = kStripColumns + 16;  // no power of two, whose rows would share their cache sets
constexpr int64_t kMiddleOf = 32;  // centroids whose mean is m; any m is correct

constexpr int kWide = 64, kWideVectors = kWide / kLanes;  // partial sums of one reduction

// The same tree on every instruction set.
float reduce(const Vec* sums, const float* tail, int64_t tail_length) {
  float partial[kWide];
  for (int v = 0; v < kWideVectors; ++v) store(partial + v * kLanes, sums[v]);
  for (int64_t lane = 0; lane < tail_length; ++lane) partial[lane] = __builtin_fmaf(tail[lane], tail[lane], partial[lane]);
  for (int half = kWide / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  return partial[0];
}

// |x - c|^2 in float32: what the result is defined by.
float squared_distance(const float* x, const float* c, int64_t depth) {
  Vec sums[kWideVectors] = {};
  int64_t d = 0;
  for (; d + kWide <= depth; d += kWide)
#pragma GCC unroll 16
    for (int v = 0; v < kWideVectors; ++v) {
      const Vec difference = load(x + d + v * kLanes) - load(c + d + v * kLanes);
      sums[v] += difference * difference;
    }
  float tail[kWide];
  const int64_t rest = depth - d;
  for (int64_t lane = 0; lane < rest; ++lane) tail[lane] = x[d + lane] - c[d + lane];
  return reduce(sums, tail, rest);
}

// Writes factor * (row - middle) as the product takes it, factor a power of two. Returns |row - middle|^2 and
// |row - middle - what was written / factor|^2.
struct Written {
  float squared, error;
};

Written write_row(const float* row, const float* middle, int64_t depth, float factor, Word* to, int64_t words) {
  for (int64_t word = depth / kElements; word < words; ++word) to[word] = Word{};
  Vec sums[kWideVectors] = {}, errors[kWideVectors] = {};
  float tail[kWide], lost[kWide];
  int64_t d = 0;
#if defined(__AVX512BF16__)
  uint16_t* halves = reinterpret_cast<uint16_t*>(to);
  const auto write = [&](__m512 value, uint16_t* at, __mmask16 lanes) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(value * factor);
    _mm256_mask_storeu_epi16(at, lanes, rounded);
    return value * factor - _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  };
#endif
  for (; d + kWide <= depth; d += kWide)
#pragma GCC unroll 16
    for (int v = 0; v < kWideVectors; ++v) {
      const int64_t at = d + v * kLanes;
      const Vec value = load(row + at) - load(middle + at);
      sums[v] += value * value;
#if defined(__AVX512BF16__)
      const Vec error = (Vec)write((__m512)value, halves + at, 0xffff);
      errors[v] += error * error;
#else
      store(to + at, value * factor);
#endif
    }
  const int64_t rest = depth - d;
  for (int64_t lane = 0; lane < rest; ++lane) tail[lane] = row[d + lane] - middle[d + lane];
#if defined(__AVX512BF16__)
  for (int64_t lane = 0; lane < rest; lane += kLanes) {
    const __mmask16 lanes = rest - lane >= kLanes ? 0xffff : (1u << (rest - lane)) - 1;
    _mm512_mask_storeu_ps(lost + lane, lanes, write(_mm512_maskz_loadu_ps(lanes, tail + lane), halves + d + lane, lanes));
  }
#else
  for (int64_t lane = 0; lane < rest; ++lane) to[d + lane] = tail[lane] * factor, lost[lane] = 0;
#endif
  return {reduce(sums, tail, rest), reduce(errors, lost, rest) / (factor * factor)};
}

// How far float32 sums of `depth` terms may be off, relative to the sum of magnitudes, with room for the handful of
// roundings around them.
float sum_error(int64_t depth) { return static_cast<float>(depth + 64) * 0x1p-23f; }
// The same for the 64 partial sums of reduce().
float wide_error(int64_t depth) { return static_cast<float>(depth / kWide + 16) * 0x1p-23f; }

// An upper bound of a norm whose square was summed by reduce(). The constant covers underflow.
float norm_bound(float squared, int64_t depth) {
  return __builtin_sqrtf(squared) * (1 + wide_error(depth)) + 1e-18f;
}

// What the bound needs of each centroid; arrays of panels * kTileColumns. With X >= |x - m| and e_x >= the rounding error of
// its row, |s - (|c|^2 - 2xc)| <= 2 e_x norm + 2 X error + base  (Cauchy-Schwarz, term by term).
struct Centroids {
  Word* packed;    // [panels, words, kTileColumns]
  float* squared;  // |c - m|^2; +inf behind the last, so that it is never chosen
  float* norm;     // >= |c - m|
  float* error;    // >= rounding error of the row + norm * sum_error
  float* base;
};

struct Nearest {
  float squared = __builtin_inff();
  int32_t index = -1;

  // Centroids come in ascending order. NaN beats every number and is never beaten.
  void offer(float value, int64_t k) {
    if (index < 0 || value < squared || (value != value && squared == squared)) {
      squared = value;
      index = static_cast<int32_t>(k);
    }
  }
};

// One patch: its row, and what the bound needs of it.
struct Patch {
  const float* row;
  float squared;  // |x - m|^2
  float norm2;    // 2 X
  float error2;   // 2 e_x
  float limit = __builtin_inff();  // smallest s + E so far
  Nearest nearest;
};

Nearest search_all(const KmeansArgs& args, const float* patch) {
  Nearest nearest;
  for (int64_t k = 0; k < args.clusters; ++k)
    nearest.offer(squared_distance(patch, args.centroids + k * args.depth, args.depth), k);
  return nearest;
}

// Measures the candidates among `width` scores of centroids first, first + 1, ...; width is a multiple of kLanes.
void choose(const KmeansArgs& args, const Centroids& centroids, const float* products, int64_t first, int64_t width,
            Patch& patch) {
  const auto bound = [&](int64_t k) {
    return patch.error2 * load(centroids.norm + k) + patch.norm2 * load(centroids.error + k) + load(centroids.base + k);
  };
  Vec limits = splat(patch.limit);
  for (int64_t j = 0; j < width; j += kLanes) {
    const Vec above = load(products + j) + load(centroids.squared + first + j) + bound(first + j);
    limits = above < limits ? above : limits;
  }
  for (int lane = 0; lane < kLanes; ++lane)
    if (limits[lane] < patch.limit) patch.limit = limits[lane];
  // Centring rounds x - m (first term); the exact pass rounds its sums (second): neither may change who is measured.
  const float above_zero = patch.limit + patch.squared > 0 ? patch.limit + patch.squared : 0;
  const float threshold = patch.limit + 0x1p-19f * patch.squared + 4 * wide_error(args.depth) * above_zero;
  for (int64_t j = 0; j < width; j += kLanes) {
    const VecMask chosen = load(products + j) + load(centroids.squared + first + j) - bound(first + j) <= threshold;
    if (!any(chosen)) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t k = first + j + lane;
      if (chosen[lane] && k < args.clusters)
        patch.nearest.offer(squared_distance(patch.row, args.centroids + k * args.depth, args.depth), k);
    }
  }
}

// m: the mean of up to kMiddleOf centroids.
void write_middle(const KmeansArgs& args, float* middle) {
  memset(middle, 0, args.depth * sizeof(float));
  const int64_t step = most(args.clusters / kMiddleOf, 1), used = (args.clusters + step - 1) / step;
  for (int64_t k = 0; k < args.clusters; k += step)
    for (int64_t d = 0; d < args.depth; ++d)
      middle[d] += args.centroids[k * args.depth + d] * (1.0f / static_cast<float>(used));
}

// Writes one panel of centroids and what the bound needs of them.
void pack_panel(const KmeansArgs& args, const float* middle, int64_t panel, int64_t words, const Centroids& centroids) {
  const int64_t k0 = panel * kTileColumns, count = least(kTileColumns, args.clusters - k0);
  Word* rows = static_cast<Word*>(scratch(1, kTileColumns * words * sizeof(Word)));
  for (int64_t j = 0; j < kTileColumns; ++j) {
    const int64_t k = k0 + j;
    Written written{__builtin_inff(), 0};
    if (j < count) written = write_row(args.centroids + k * args.depth, middle, args.depth, 1, rows + j * words, words);
    const float norm = j < count ? norm_bound(written.squared, args.depth) : 0;
    centroids.squared[k] = written.squared;
    centroids.norm[k] = norm;
    centroids.error[k] = j < count ? norm_bound(written.error, args.depth) + sum_error(args.depth) * norm : 0;
    centroids.base[k] = 4 * sum_error(args.depth) * norm * norm + 1e-30f;
  }
  pack_columns(rows, words, count, words, centroids.packed + panel * words * kTileColumns);
}

// The patches n0 .. n0 + count against all centroids. columns: of the packed panels; largest: of the centroids' norms.
void assign_block(const KmeansArgs& args, const float* middle, const Centroids& centroids, int64_t words,
                  int64_t columns, float largest, int64_t n0, int64_t count) {
  const int64_t depth = args.depth, padded = round_up(count, kProductRows);
  const int64_t pitch = round_up(words, 16) + 16;  // rows a multiple of 4 KiB apart would share their cache sets
  Word* rows = static_cast<Word*>(scratch(1, padded * pitch * sizeof(Word)));
  float* strip = static_cast<float*>(scratch(2, padded * kStripPitch * sizeof(float)));
  Patch* patches = static_cast<Patch*>(scratch(3, padded * sizeof(Patch)));
  for (int64_t i = 0; i < count; ++i) {
    Patch& patch = patches[i] = Patch{};
    patch.row = args.patches + (n0 + i) * depth;
    const Written written = write_row(patch.row, middle, depth, -2, rows + i * pitch, words);
    patch.squared = written.squared;
    patch.norm2 = 2 * norm_bound(written.squared, depth);
    patch.error2 = 2 * norm_bound(written.error, depth);
  }
  for (int64_t i = count; i < padded; ++i) memset(rows + i * pitch, 0, words * sizeof(Word));
  const TileSession session;
  for (int64_t first = 0; first < columns; first += kStripColumns) {
    const int64_t width = least(kStripColumns, columns - first);
    for (int64_t j = 0; j < width; j += kTileColumns)
      for (int64_t i = 0; i < count; i += kProductRows)
        multiply_product(rows + i * pitch, pitch, centroids.packed + (first + j) * words, words,
                         strip + i * kStripPitch + j, kStripPitch);
    for (int64_t i = 0; i < count; ++i) choose(args, centroids, strip + i * kStripPitch, first, width, patches[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const float reach = patches[i].norm2 + 2 * largest;
    const bool bounded = reach * reach < 1e38f;  // false for NaN and infinity too
    const Nearest nearest = bounded ? patches[i].nearest : search_all(args, patches[i].row);
    args.index[n0 + i] = nearest.index;
    args.distance[n0 + i] = __builtin_sqrtf(nearest.squared);
  }
}

}  // namespace

void kmeans_assign_cpu(const KmeansArgs& args, int threads) {
  if (args.count == 0) return;
  const int64_t words = round_up((args.depth + kElements - 1) / kElements, kProductWords);
  const int64_t panels = (args.clusters + kTileColumns - 1) / kTileColumns, columns = panels * kTileColumns;
  const int64_t middle_size = round_up(args.depth, 16);
  float* middle = static_cast<float*>(scratch(0, (middle_size + columns * (words + 4)) * sizeof(float)));
  float* bounds = middle + middle_size;
  const Centroids centroids{reinterpret_cast<Word*>(bounds + 4 * columns), bounds, bounds + columns,
                            bounds + 2 * columns, bounds + 3 * columns};
  write_middle(args, middle);
  auto pack = [&](int64_t panel, int) { pack_panel(args, middle, panel, words, centroids); };
  parallel(panels, threads, pack);
  float largest = 0;  // NaN or infinity, as sums near overflow, void the bound: everything is measured
  for (int64_t k = 0; k < args.clusters; ++k) {
    const float norm = centroids.norm[k];
    largest = norm > largest || norm != norm ? norm : largest;  // a NaN stays
  }

  // As many blocks for each thread, of equal size.
  const int64_t workers = resolve_threads(threads, (args.count + kProductRows - 1) / kProductRows);
  const int64_t rounds = ((args.count + kBlockRows - 1) / kBlockRows + workers - 1) / workers;
  const int64_t block = round_up((args.count + rounds * workers - 1) / (rounds * workers), kProductRows);
  auto run = [&](int64_t task, int) {
    assign_block(args, middle, centroids, words, columns, largest, task * block, least(block, args.count - task * block));
  };
  parallel((args.count + block - 1) / block, threads, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
