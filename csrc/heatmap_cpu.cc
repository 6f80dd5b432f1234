// A task is a block of output rows: the map rows it needs are spread to full width once, in scratch that stays in cache,
// then output rows are short weighted sums of them, compared and stored while they are in registers. Rows and columns are
// taken in groups over the union of their bands, where most weights outside a band are zeros: as 0 * NaN is NaN, a map that
// is not finite takes the exact path, one row and one column at a time.
#include "heatmap.h"

#include "simd.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

constexpr int64_t kRowsPerTask = 64;  // enough to share the spreading, few enough to keep every thread busy
constexpr int64_t kRowsAtLeast = 16;
constexpr int kGroup = 4;         // output rows that share each load
constexpr int64_t kUnion = 64;    // widest union of bands that a group takes
constexpr int64_t kPad = 16;      // floats behind a row that vectors may overrun

// The larger, or NaN once either is NaN.
inline Vec peak_of(Vec peak, Vec value) { return (value > peak) | (value != value) ? value : peak; }
inline float peak_of(float peak, float value) { return value > peak || value != value ? value : peak; }

bool is_finite(const float* values, int64_t count) {
  Vec sum = {};  // 0 * value: NaN for what is not finite
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += load(values + i) * 0.0f;
  float rest = 0;
  for (; i < count; ++i) rest += values[i] * 0.0f;
  return rest == 0 && !any(sum != sum);
}

// Columns [lo, hi) of the map that reach the vector of output columns at x.
void vector_band(const HeatmapArgs& args, int64_t x, int64_t* lo, int64_t* hi) {
  *lo = args.in_width, *hi = 0;
  for (int64_t i = x; i < least(x + kLanes, args.out_width); ++i) {
    *lo = least(*lo, args.column_band[2 * i]);
    *hi = most(*hi, args.column_band[2 * i + 1]);
  }
}

// wide[y][x] = sum over columns c of map[y][c] * spread[c][x], for `count` rows.
void spread_rows(const HeatmapArgs& args, const float* map, int64_t count, int64_t pitch, float* wide) {
  for (int64_t x = 0; x < args.out_width; x += kLanes) {
    int64_t lo, hi;
    vector_band(args, x, &lo, &hi);
    int64_t y = 0;
    for (; y + kGroup <= count; y += kGroup) {
      Vec sum[kGroup] = {};
      for (int64_t c = lo; c < hi; ++c) {
        const Vec weights = load(args.column_spread + c * args.spread_pitch + x);
#pragma GCC unroll 4
        for (int i = 0; i < kGroup; ++i) sum[i] += map[(y + i) * args.in_width + c] * weights;
      }
      for (int i = 0; i < kGroup; ++i) store(wide + (y + i) * pitch + x, sum[i]);
    }
    for (; y < count; ++y) {
      Vec sum = {};
      for (int64_t c = lo; c < hi; ++c)
        sum += map[y * args.in_width + c] * load(args.column_spread + c * args.spread_pitch + x);
      store(wide + y * pitch + x, sum);
    }
  }
}

void spread_rows_exactly(const HeatmapArgs& args, const float* map, int64_t count, int64_t pitch, float* wide) {
  for (int64_t y = 0; y < count; ++y)
    for (int64_t x = 0; x < args.out_width; ++x) {
      float sum = 0;
      for (int64_t c = args.column_band[2 * x]; c < args.column_band[2 * x + 1]; ++c)
        sum += map[y * args.in_width + c] * args.column_spread[c * args.spread_pitch + x];
      wide[y * pitch + x] = sum;
    }
}

// kRows output rows from `taps` wide rows, weights[t * kRows + row]. Returns their maximum.
template <int kRows>
float combine_rows(const HeatmapArgs& args, const float* wide, int64_t pitch, const float* weights, int64_t taps,
                   float* out, uint8_t* mask) {
  const int64_t width = args.out_width;
  Vec peaks = splat(-__builtin_inff());
  int64_t x = 0;
  const auto sums = [&](Vec* sum) {
    for (int64_t t = 0; t < taps; ++t) {
      const Vec row = load(wide + t * pitch + x);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sum[i] += weights[t * kRows + i] * row;
    }
  };
  for (; x + kLanes <= width; x += kLanes) {
    Vec sum[kRows] = {};
    sums(sum);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      store(out + i * width + x, sum[i]);
      peaks = peak_of(peaks, sum[i]);
      if (mask) store_bytes(mask + i * width + x, !(sum[i] <= args.threshold));
    }
  }
  float peak = -__builtin_inff();
  if (x < width) {
    Vec sum[kRows] = {};
    sums(sum);
    for (int i = 0; i < kRows; ++i)
      for (int64_t at = x; at < width; ++at) {
        const float value = sum[i][at - x];
        out[i * width + at] = value;
        peak = peak_of(peak, value);
        if (mask) mask[i * width + at] = !(value <= args.threshold);
      }
  }
  for (int lane = 0; lane < kLanes; ++lane) peak = peak_of(peak, peaks[lane]);
  return peak;
}

// Output rows [y0, y1) of one image from the wide rows, whose first is map row `first`. Returns their maximum.
float combine_block(const HeatmapArgs& args, const float* wide, int64_t first, int64_t pitch, bool finite, int64_t image,
                    int64_t y0, int64_t y1) {
  float peak = -__builtin_inff();
  for (int64_t y = y0; y < y1;) {
    const int32_t* band = args.row_band + 2 * y;
    const int64_t at = (image * args.out_height + y) * args.out_width;
    float* out = args.out + at;
    uint8_t* mask = args.mask ? args.mask + at : nullptr;
    int64_t lo = band[0], hi = band[1];
    for (int i = 1; i < kGroup && y + kGroup <= y1; ++i) lo = least(lo, band[2 * i]), hi = most(hi, band[2 * i + 1]);
    if (finite && y + kGroup <= y1 && hi - lo <= kUnion) {
      float weights[kUnion * kGroup] = {};
      for (int i = 0; i < kGroup; ++i)
        for (int64_t t = band[2 * i]; t < band[2 * i + 1]; ++t)
          weights[(t - lo) * kGroup + i] = args.row_weights[(y + i) * args.row_taps + t - band[2 * i]];
      peak = peak_of(peak, combine_rows<kGroup>(args, wide + (lo - first) * pitch, pitch, weights, hi - lo, out, mask));
      y += kGroup;
    } else {
      peak = peak_of(peak, combine_rows<1>(args, wide + (band[0] - first) * pitch, pitch,
                                           args.row_weights + y * args.row_taps, band[1] - band[0], out, mask));
      y += 1;
    }
  }
  return peak;
}

}  // namespace

void heatmap_cpu(const HeatmapArgs& args, int threads) {
  const int64_t height = args.out_height, width = args.out_width;
  if (args.batch == 0) return;
  const int64_t workers = worth(threads, args.batch * height * (width / kLanes + 1) * (args.row_taps + 2));
  int64_t rows = round_up((args.batch * height + 2 * workers - 1) / (2 * workers), kRowsAtLeast);
  rows = least(workers == 1 ? height : least(rows, kRowsPerTask), height);
  const int64_t blocks = (height + rows - 1) / rows;
  float* peaks = static_cast<float*>(scratch(0, args.batch * blocks * sizeof(float)));

  auto run = [&](int64_t task, int) {
    const int64_t image = task / blocks, y0 = task % blocks * rows, y1 = least(y0 + rows, height);
    int64_t lo = args.in_height, hi = 0;
    for (int64_t y = y0; y < y1; ++y) {
      lo = least(lo, args.row_band[2 * y]);
      hi = most(hi, args.row_band[2 * y + 1]);
    }
    // Not a power of two: its rows would share their cache sets.
    const int64_t pitch = round_up(width, 16) + kPad;
    float* wide = static_cast<float*>(scratch(1, (hi - lo) * pitch * sizeof(float)));
    const float* map = args.map + (image * args.in_height + lo) * args.in_width;
    const bool finite = is_finite(map, (hi - lo) * args.in_width);
    (finite ? spread_rows : spread_rows_exactly)(args, map, hi - lo, pitch, wide);
    peaks[task] = combine_block(args, wide, lo, pitch, finite, image, y0, y1);
  };
  parallel(args.batch * blocks, static_cast<int>(workers), run);

  for (int64_t image = 0; image < args.batch; ++image) {
    float peak = peaks[image * blocks];
    for (int64_t block = 1; block < blocks; ++block) peak = peak_of(peak, peaks[image * blocks + block]);
    args.peak[image] = peak;
  }
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
