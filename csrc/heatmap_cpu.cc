// A task is a block of output rows: the map rows it needs are spread to full width once, in scratch that stays in cache,
// then each output row is a short weighted sum of them, compared and stored while it is in registers.
#include "heatmap.h"

#include "simd.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

// Output rows of one task; enough to share the horizontal pass, few enough to keep every thread busy.
constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kRowsAtLeast = 16;

// The larger, or NaN once either is NaN.
inline Vec peak_of(Vec peak, Vec value) { return (value > peak) | (value != value) ? value : peak; }
inline float peak_of(float peak, float value) { return value > peak || value != value ? value : peak; }

// wide[y - y0][x] = sum over columns c of map[y][c] * spread[c][x], each column over its reach only.
void spread_rows(const HeatmapArgs& args, const float* map, int64_t y0, int64_t y1, int64_t pitch, float* wide) {
  for (int64_t y = y0; y < y1; ++y) {
    float* row = wide + (y - y0) * pitch;
    memset(row, 0, pitch * sizeof(float));
    for (int64_t c = 0; c < args.in_width; ++c) {
      const float value = map[y * args.in_width + c];
      const float* weights = args.column_spread + c * args.out_width;
      const int64_t hi = args.column_reach[2 * c + 1];
      int64_t x = args.column_reach[2 * c];
      for (; x + kLanes <= hi; x += kLanes) store(row + x, load(row + x) + value * load(weights + x));
      for (; x < hi; ++x) row[x] += value * weights[x];
    }
  }
}

// One output row from `taps` wide rows; kTaps is that number where it is small, else 0. Returns the row's maximum.
template <int kTaps>
float combine_rows(const float* wide, int64_t pitch, const float* weights, int64_t taps, int64_t width, float threshold,
                   float* out, uint8_t* mask) {
  const int64_t count = kTaps ? kTaps : taps;
  Vec peaks = splat(-__builtin_inff());
  float peak = -__builtin_inff();
  int64_t x = 0;
  for (; x + kLanes <= width; x += kLanes) {
    Vec sum = {};
#pragma GCC unroll 8
    for (int64_t t = 0; t < count; ++t) sum += weights[t] * load(wide + t * pitch + x);
    store(out + x, sum);
    peaks = peak_of(peaks, sum);
    if (mask) {
      const VecMask marked = !(sum <= threshold);
      for (int lane = 0; lane < kLanes; ++lane) mask[x + lane] = marked[lane] & 1;
    }
  }
  for (; x < width; ++x) {
    float sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += weights[t] * wide[t * pitch + x];
    out[x] = sum;
    peak = peak_of(peak, sum);
    if (mask) mask[x] = !(sum <= threshold);
  }
  for (int lane = 0; lane < kLanes; ++lane) peak = peak_of(peak, peaks[lane]);
  return peak;
}

using Combine = float (*)(const float*, int64_t, const float*, int64_t, int64_t, float, float*, uint8_t*);
constexpr Combine kCombine[] = {combine_rows<0>, combine_rows<1>, combine_rows<2>, combine_rows<3>, combine_rows<4>,
                                combine_rows<5>, combine_rows<6>, combine_rows<7>, combine_rows<8>};

}  // namespace

void heatmap_cpu(const HeatmapArgs& args, int threads) {
  const int64_t height = args.out_height, width = args.out_width;
  if (args.batch == 0) return;
  const int64_t workers = resolve_threads(threads, args.batch * height);
  int64_t rows = round_up((args.batch * height + 2 * workers - 1) / (2 * workers), kRowsAtLeast);
  rows = least(least(rows, kRowsPerTask), height);
  const int64_t blocks = (height + rows - 1) / rows;
  float* peaks = static_cast<float*>(scratch(0, args.batch * blocks * sizeof(float)));

  auto run = [&](int64_t task, int) {
    const int64_t image = task / blocks, y0 = task % blocks * rows, y1 = least(y0 + rows, height);
    int64_t lo = args.in_height, hi = 0;
    for (int64_t y = y0; y < y1; ++y) {
      lo = least(lo, args.row_band[2 * y]);
      hi = most(hi, args.row_band[2 * y + 1]);
    }
    // One vector more than a multiple of the cache's set distance: rows of a power of two would share their sets.
    const int64_t pitch = round_up(width, 16) + 16;
    float* wide = static_cast<float*>(scratch(1, (hi - lo) * pitch * sizeof(float)));
    spread_rows(args, args.map + image * args.in_height * args.in_width, lo, hi, pitch, wide);
    float peak = -__builtin_inff();
    for (int64_t y = y0; y < y1; ++y) {
      const int64_t first = args.row_band[2 * y], taps = args.row_band[2 * y + 1] - first;
      const int64_t at = (image * height + y) * width;
      peak = peak_of(peak, kCombine[taps <= 8 ? taps : 0](wide + (first - lo) * pitch, pitch,
                                                          args.row_weights + y * args.row_taps, taps, width,
                                                          args.threshold, args.out + at, args.mask ? args.mask + at : nullptr));
    }
    peaks[task] = peak;
  };
  parallel(args.batch * blocks, threads, run);

  for (int64_t image = 0; image < args.batch; ++image) {
    float peak = peaks[image * blocks];
    for (int64_t block = 1; block < blocks; ++block) peak = peak_of(peak, peaks[image * blocks + block]);
    args.peak[image] = peak;
  }
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
