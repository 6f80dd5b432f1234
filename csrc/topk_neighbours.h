// topk_neighbours: for each row of f the K rows of g with the largest cosine similarity minus position similarity.
// Reference: edgead/kernels/reference.py.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace edgead {

struct TopkArgs {
  const float* f;         // [B, N, C]
  const float* g;         // [B, N, C]
  const float* position;  // [N, N] or null
  int64_t batch, nodes, channels, k;
  int32_t* index;  // [B, N, K]: largest first, ties to the lower index, NaN before every number
};

// Host pointers. No error but std::bad_alloc.
void topk_neighbours_cpu(const TopkArgs& args, int threads);

// Device pointers; float inputs are float16 where `half`; asynchronous on the stream. Returns a cudaError_t.
int topk_neighbours_cuda(const TopkArgs& args, bool half, CUstream_st* stream);

}  // namespace edgead
