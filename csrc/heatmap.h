// heatmap: bilinear up-sampling and Gaussian smoothing of anomaly maps as one banded product A_y M A_x^T, with the maximum
// of each map and its threshold mask in the same pass. Reference: edgead/kernels/reference.py.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace edgead {

struct HeatmapArgs {
  const float* map;  // [B, h, w]
  int64_t batch, in_height, in_width, out_height, out_width;
  const int32_t* row_band;    // [H, 2]: rows [lo, hi) of the map that reach an output row
  const float* row_weights;   // [H, row_taps]
  int64_t row_taps;
  const int32_t* column_band;    // [W, 2]: columns [lo, hi) of the map that reach an output column
  const float* column_weights;   // [W, column_taps]                                    (CUDA)
  int64_t column_taps;
  const float* column_spread;    // [w, spread_pitch], the matrix transposed and dense  (CPU)
  int64_t spread_pitch;          // a multiple of 16, zeros behind W
  float threshold;
  float* out;     // [B, H, W]
  float* peak;    // [B]; NaN when the map holds a NaN
  uint8_t* mask;  // [B, H, W] or null; 1 where !(value <= threshold), so NaN is marked
};

// Host pointers. No error but std::bad_alloc.
void heatmap_cpu(const HeatmapArgs& args, int threads);

// Device pointers; float inputs are float16 where `half`; asynchronous on the stream. Returns a cudaError_t.
int heatmap_cuda(const HeatmapArgs& args, bool half, CUstream_st* stream);

}  // namespace edgead
