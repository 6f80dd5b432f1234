// kmeans_assign: the nearest centroid of each patch and its Euclidean distance. Reference: edgead/kernels/reference.py.
//
// The result is the arg-min over directly summed squared differences in float32, in an order of summation that is the same
// on every instruction set. A cheaper product |c|^2 - 2xc only chooses the candidates for it: a centroid is left out when
// an error bound proves that it cannot be the nearest.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace edgead {

struct KmeansArgs {
  const float* patches;    // [N, D]
  const float* centroids;  // [K, D]
  int64_t count, clusters, depth;  // N, K >= 1, D
  int32_t* index;   // [N], the lowest on a tie; the first NaN wins
  float* distance;  // [N], Euclidean
};

// Host pointers. No error but std::bad_alloc.
void kmeans_assign_cpu(const KmeansArgs& args, int threads);

// Device pointers; float inputs are float16 where `half`; asynchronous on the stream. Returns a cudaError_t.
int kmeans_assign_cuda(const KmeansArgs& args, bool half, CUstream_st* stream);

}  // namespace edgead
