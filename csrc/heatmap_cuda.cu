// A block makes a tile of one output map: the map rows that reach it are spread to the tile's width in shared memory, a chunk
// at a time, and each thread sums them into a 4 x 4 patch of registers, which is stored, compared and reduced once.
#include "cuda_common.cuh"
#include "heatmap.h"

namespace edgead {
namespace {

constexpr int kThreadsX = 32, kThreadsY = 8, kPatch = 4;
constexpr int kTileWidth = kThreadsX * kPatch, kTileHeight = kThreadsY * kPatch;
constexpr int kChunk = 16;  // map rows spread at a time

__global__ void clear_peaks_kernel(HeatmapArgs args) {
  const int64_t image = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (image < args.batch) args.peak[image] = -infinity();
}

// The pixel of map row y at output column x: the horizontal half of the product.
template <class T>
__device__ float spread_pixel(const HeatmapArgs& args, const T* map, int64_t y, int64_t x) {
  const int32_t lo = args.column_band[2 * x], hi = args.column_band[2 * x + 1];
  float sum = 0;
  for (int32_t c = lo; c < hi; ++c)
    sum += to_float(map[y * args.in_width + c]) * args.column_weights[x * args.column_taps + c - lo];
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kThreadsX* kThreadsY) heatmap_kernel(HeatmapArgs args) {
  __shared__ float wide[kChunk][kTileWidth];
  __shared__ int band[2];
  __shared__ float tile_peak;
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t x0 = blockIdx.x * static_cast<int64_t>(kTileWidth), y0 = blockIdx.y * static_cast<int64_t>(kTileHeight);
  if (tx == 0 && ty == 0) {
    band[0] = static_cast<int>(args.in_height), band[1] = 0;
    tile_peak = -infinity();
  }
  __syncthreads();
  if (ty == 0 && tx < kTileHeight && y0 + tx < args.out_height) {
    atomicMin(&band[0], args.row_band[2 * (y0 + tx)]);
    atomicMax(&band[1], args.row_band[2 * (y0 + tx) + 1]);
  }
  __syncthreads();
  for (int64_t image = blockIdx.z; image < args.batch; image += gridDim.z) {
    const T* map = reinterpret_cast<const T*>(args.map) + image * args.in_height * args.in_width;
    float sum[kPatch][kPatch] = {};
    for (int first = band[0]; first < band[1]; first += kChunk) {
      for (int r = ty; r < kChunk; r += kThreadsY)
        for (int j = 0; j < kPatch; ++j) {
          const int64_t x = x0 + tx + j * kThreadsX;
          wide[r][tx + j * kThreadsX] = first + r < band[1] && x < args.out_width ? spread_pixel(args, map, first + r, x) : 0;
        }
      __syncthreads();
      for (int i = 0; i < kPatch; ++i) {
        const int64_t y = y0 + ty * kPatch + i;
        if (y >= args.out_height) break;
        const int lo = args.row_band[2 * y], hi = args.row_band[2 * y + 1];
        for (int r = max(lo, first); r < min(hi, first + kChunk); ++r) {
          const float weight = args.row_weights[y * args.row_taps + r - lo];
          for (int j = 0; j < kPatch; ++j) sum[i][j] += weight * wide[r - first][tx + j * kThreadsX];
        }
      }
      __syncthreads();
    }
    float peak = -infinity();
    for (int i = 0; i < kPatch; ++i)
      for (int j = 0; j < kPatch; ++j) {
        const int64_t y = y0 + ty * kPatch + i, x = x0 + tx + j * kThreadsX;
        if (y >= args.out_height || x >= args.out_width) continue;
        const int64_t at = (image * args.out_height + y) * args.out_width + x;
        const float value = sum[i][j];
        args.out[at] = value;
        if (args.mask) args.mask[at] = !(value <= args.threshold);
        if (value > peak || is_nan(value)) peak = value;
      }
    atomic_peak(&tile_peak, peak);
    __syncthreads();
    if (tx == 0 && ty == 0) {
      atomic_peak(&args.peak[image], tile_peak);
      tile_peak = -infinity();
    }
    __syncthreads();
  }
}

}  // namespace

int heatmap_cuda(const HeatmapArgs& args, bool half, CUstream_st* stream) {
  if (args.batch == 0) return cudaSuccess;
  EDGEAD_LAUNCH(clear_peaks_kernel, dim3(static_cast<unsigned>(ceil_div(args.batch, 256))), dim3(256), stream, args);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(ceil_div(args.out_width, kTileWidth)),
                  static_cast<unsigned>(ceil_div(args.out_height, kTileHeight)),
                  static_cast<unsigned>(args.batch < 65535 ? args.batch : 65535));
  const dim3 block(kThreadsX, kThreadsY);
#ifndef EDGEAD_CUDA_ON_HOST
  if (half) {
    EDGEAD_LAUNCH(heatmap_kernel<__half>, grid, block, stream, args);
    return cudaGetLastError();
  }
#endif
  (void)half;
  EDGEAD_LAUNCH(heatmap_kernel<float>, grid, block, stream, args);
  return cudaGetLastError();
}

}  // namespace edgead
