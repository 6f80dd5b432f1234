#include "resize.h"

#include "simd.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

constexpr int kDown = kWeightBits - kIntermediateBits;
constexpr int kLast = kWeightBits + kIntermediateBits;
constexpr int64_t kRowsPerTask = 16;

// row[x] = round(sum over t of w[t] * source[t][x]) in 8.7 fixed point, over the bytes of a row.
void vertical(const uint8_t* source, int64_t stride, const int16_t* weights, int64_t taps, int64_t bytes, int32_t* sum,
              int16_t* row) {
  for (int64_t x = 0; x < bytes; ++x) sum[x] = 1 << (kDown - 1);
  for (int64_t t = 0; t < taps; ++t) {
    const uint8_t* from = source + t * stride;
    const int32_t weight = weights[t];
    for (int64_t x = 0; x < bytes; ++x) sum[x] += from[x] * weight;
  }
  for (int64_t x = 0; x < bytes; ++x) row[x] = static_cast<int16_t>(sum[x] >> kDown);
}

template <int kChannels>
void horizontal(const ResizeArgs& args, const int16_t* row, uint8_t* out) {
  for (int64_t x = 0; x < args.out_width; ++x) {
    const int16_t* from = row + args.column_start[x] * kChannels;
    const int16_t* weights = args.column_weights + x * args.column_taps;
    int32_t sum[kChannels];
    for (int c = 0; c < kChannels; ++c) sum[c] = 1 << (kLast - 1);
    for (int64_t t = 0; t < args.column_taps; ++t)
      for (int c = 0; c < kChannels; ++c) sum[c] += weights[t] * from[t * kChannels + c];
    for (int64_t c = 0; c < args.out_channels; ++c)
      out[x * args.out_channels + c] = static_cast<uint8_t>(sum[args.channels[c]] >> kLast);
  }
}

}  // namespace

void resize_cpu(const ResizeArgs& args, int threads) {
  const int64_t bytes = args.in_width * args.in_channels;
  auto run = [&](int64_t task, int) {
    int32_t* sum = static_cast<int32_t*>(scratch(0, bytes * sizeof(int32_t)));
    int16_t* row = static_cast<int16_t*>(scratch(1, (bytes + 64) * sizeof(int16_t)));
    for (int64_t y = task * kRowsPerTask; y < least((task + 1) * kRowsPerTask, args.out_height); ++y) {
      vertical(args.frame + args.row_start[y] * args.row_stride, args.row_stride, args.row_weights + y * args.row_taps,
               args.row_taps, bytes, sum, row);
      uint8_t* out = args.out + y * args.out_width * args.out_channels;
      if (args.in_channels == 1) horizontal<1>(args, row, out);
      if (args.in_channels == 3) horizontal<3>(args, row, out);
      if (args.in_channels == 4) horizontal<4>(args, row, out);
    }
  };
  parallel((args.out_height + kRowsPerTask - 1) / kRowsPerTask, threads, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
