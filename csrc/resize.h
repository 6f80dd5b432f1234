// resize: crop, antialiased fixed-point triangle filter and channel order of uint8 frames. The result is the same bits in
// NumPy, on every CPU and in CUDA: every sum is exact in 32 bits and each pass rounds once. Reference:
// edgead/kernels/reference.py; weight tables: edgead/kernels/tables.py.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace edgead {

constexpr int kWeightBits = 14;       // the weights of an output sum to 1 << 14
constexpr int kIntermediateBits = 7;  // fraction bits between the passes: 8.7, at most 255 << 7, fits int16

struct ResizeArgs {
  const uint8_t* frame;  // first pixel of the crop
  int64_t row_stride;    // bytes, may be negative; pixels of a row are contiguous
  int64_t in_height, in_width, in_channels;  // of the crop; 1, 3 or 4 channels
  int64_t out_height, out_width, out_channels;
  const int32_t* row_start;     // [h]
  const int16_t* row_weights;   // [h, row_taps]
  int64_t row_taps;
  const int32_t* column_start;    // [w]
  const int16_t* column_weights;  // [w, column_taps]
  int64_t column_taps;
  int8_t channels[4];  // source channel of each output channel
  uint8_t* out;        // [h, w, out_channels]
};

// Host pointers. No error but std::bad_alloc.
void resize_cpu(const ResizeArgs& args, int threads);

// Device pointers; asynchronous on the stream. Returns a cudaError_t.
int resize_cuda(const ResizeArgs& args, CUstream_st* stream);

}  // namespace edgead
