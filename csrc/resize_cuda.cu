// A thread makes one output pixel and repeats the vertical sums that its neighbours need too: a frame is small beside what a
// GPU does in the time of a launch, and the samples come from its cache.
#include "cuda_common.cuh"
#include "resize.h"

namespace edgead {
namespace {

constexpr int kThreadsX = 32, kThreadsY = 4;

template <int kChannels>
__global__ void __launch_bounds__(kThreadsX* kThreadsY) resize_kernel(ResizeArgs args) {
  const int64_t x = blockIdx.x * static_cast<int64_t>(kThreadsX) + threadIdx.x;
  const int64_t y = blockIdx.y * static_cast<int64_t>(kThreadsY) + threadIdx.y;
  if (x >= args.out_width || y >= args.out_height) return;
  constexpr int kDown = kWeightBits - kIntermediateBits, kLast = kWeightBits + kIntermediateBits;
  const uint8_t* corner = args.frame + args.row_start[y] * args.row_stride + args.column_start[x] * kChannels;
  const int16_t* row_weights = args.row_weights + y * args.row_taps;
  const int16_t* column_weights = args.column_weights + x * args.column_taps;
  int32_t sum[kChannels];
  for (int c = 0; c < kChannels; ++c) sum[c] = 1 << (kLast - 1);
  for (int64_t u = 0; u < args.column_taps; ++u) {
    int32_t column[kChannels];
    for (int c = 0; c < kChannels; ++c) column[c] = 1 << (kDown - 1);
    for (int64_t t = 0; t < args.row_taps; ++t)
      for (int c = 0; c < kChannels; ++c) column[c] += corner[t * args.row_stride + u * kChannels + c] * row_weights[t];
    for (int c = 0; c < kChannels; ++c) sum[c] += (column[c] >> kDown) * column_weights[u];
  }
  uint8_t* out = args.out + (y * args.out_width + x) * args.out_channels;
  for (int c = 0; c < args.out_channels; ++c) {
    int32_t chosen = sum[0];
    for (int s = 1; s < kChannels; ++s) chosen = args.channels[c] == s ? sum[s] : chosen;  // registers have no index
    out[c] = static_cast<uint8_t>(chosen >> kLast);
  }
}

}  // namespace

int resize_cuda(const ResizeArgs& args, CUstream_st* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(args.out_width, kThreadsX)),
                  static_cast<unsigned>(ceil_div(args.out_height, kThreadsY)));
  const dim3 block(kThreadsX, kThreadsY);
  if (args.in_channels == 1) EDGEAD_LAUNCH(resize_kernel<1>, grid, block, stream, args);
  if (args.in_channels == 3) EDGEAD_LAUNCH(resize_kernel<3>, grid, block, stream, args);
  if (args.in_channels == 4) EDGEAD_LAUNCH(resize_kernel<4>, grid, block, stream, args);
  return cudaGetLastError();
}

}  // namespace edgead
