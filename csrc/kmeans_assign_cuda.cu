// The two passes of kmeans_assign_cpu.cc in one launch. A block walks its patches over all centroids, 64 at a time, and every
// thread keeps its two best scores |c|^2 - 2xc of each patch and the best it dropped. A warp then measures exactly the kept
// ones that the error bound cannot exclude; where a dropped one cannot be excluded either, it measures all.
#include "cuda_common.cuh"
#include "kmeans_assign.h"

namespace edgead {
namespace {

constexpr int kSide = 16, kThreads = kSide * kSide, kDepth = 16;
constexpr int kPatchColumns = 4, kColumns = kSide * kPatchColumns;
constexpr int kKept = 2;                    // scores a thread keeps for each of its patches
constexpr int kShortlist = kSide * kKept;   // of a patch: one a lane of a warp
static_assert(kShortlist == kWarp, "a lane measures a candidate");

template <class T>
struct Shared {  // of a block of kRows patches
  template <int kRows>
  struct Of {
    float x[kDepth][kRows + 1], c[kDepth][kColumns + 1];
    float x_squared[kRows], c_squared[kColumns];
    float score[kRows][kShortlist + 1];
    int32_t index[kRows][kShortlist + 1];
    float dropped[kRows][kSide + 1];
    float largest;  // |c|^2
  };
};

template <class T>
__device__ float warp_squared_distance(const T* x, const T* c, int64_t depth, int lane) {
  float sum = 0;
  for (int64_t d = lane; d < depth; d += kWarp) {
    const float difference = to_float(x[d]) - to_float(c[d]);
    sum += difference * difference;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  return sum;
}

struct Nearest {
  float squared;
  int32_t index;

  // Any order of offers: NaN first, then small, then the lower index.
  __device__ void offer(float value, int32_t k) {
    const bool nan = is_nan(value), kept_nan = is_nan(squared);
    const bool better = nan != kept_nan ? nan : nan || value == squared ? k < index : value < squared;
    if (index < 0 || better) squared = value, index = k;
  }
};

// The nearest centroid of one patch from its short list, by a whole warp.
template <class T>
__device__ Nearest decide(const KmeansArgs& args, const T* x, float score, int32_t index, float dropped, float x_squared,
                          float largest, int lane) {
  const T* centroids = reinterpret_cast<const T*>(args.centroids);
  float least_score = score;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    least_score = fminf(least_score, __shfl_xor_sync(kAllLanes, least_score, step));
    dropped = fminf(dropped, __shfl_xor_sync(kAllLanes, dropped, step));
  }
  // A sum of D terms is off by at most D roundings of the sum of their magnitudes: of |c|^2, of 2xc (Cauchy-Schwarz), and in
  // the exact pass of |x - c|^2 <= (|x| + |c|)^2.
  const float reach = sqrtf(x_squared) + sqrtf(largest);
  const float error = static_cast<float>(args.depth + 64) * 0x1p-22f * reach * reach + 1e-30f;
  const float limit = least_score + 2 * error;
  Nearest nearest{0, -1};
  if (!(reach * reach < 1e37f) || !(dropped > limit)) {
    for (int64_t k = 0; k < args.clusters; ++k)
      nearest.offer(warp_squared_distance(x, centroids + k * args.depth, args.depth, lane), static_cast<int32_t>(k));
    return nearest;
  }
  for (unsigned chosen = __ballot_sync(kAllLanes, index >= 0 && score <= limit); chosen != 0; chosen &= chosen - 1) {
    const int32_t k = __shfl_sync(kAllLanes, index, __ffs(static_cast<int>(chosen)) - 1);
    nearest.offer(warp_squared_distance(x, centroids + k * args.depth, args.depth, lane), k);
  }
  return nearest;
}

// kPatchRows: patches of a thread. 1 spreads few patches over many multiprocessors, 4 reuses each load more.
template <class T, int kPatchRows>
__global__ void __launch_bounds__(kThreads) kmeans_assign_kernel(KmeansArgs args) {
  constexpr int kRows = kSide * kPatchRows;
  __shared__ typename Shared<T>::template Of<kRows> shared;
  const int thread = threadIdx.x, lane = thread % kWarp, tx = thread % kSide, ty = thread / kSide;
  const int64_t n0 = blockIdx.x * static_cast<int64_t>(kRows), depth = args.depth;
  const T* patches = reinterpret_cast<const T*>(args.patches);
  const T* centroids = reinterpret_cast<const T*>(args.centroids);
  float score[kPatchRows][kKept], dropped[kPatchRows];
  int32_t index[kPatchRows][kKept];
  for (int i = 0; i < kPatchRows; ++i) {
    for (int s = 0; s < kKept; ++s) score[i][s] = infinity(), index[i][s] = -1;
    dropped[i] = infinity();
  }
  if (thread == 0) shared.largest = 0;
  __syncthreads();
  for (int64_t k0 = 0; k0 < args.clusters; k0 += kColumns) {
    float sum[kPatchRows][kPatchColumns] = {};
    float squared = 0;  // threads 0..63: of a centroid; 64..64 + kRows: of a patch
    for (int64_t d0 = 0; d0 < depth; d0 += kDepth) {
      for (int at = thread; at < kDepth * kRows; at += kThreads) {
        const int64_t d = d0 + at % kDepth, n = n0 + at / kDepth;
        shared.x[at % kDepth][at / kDepth] = d < depth && n < args.count ? to_float(patches[n * depth + d]) : 0;
      }
      for (int at = thread; at < kDepth * kColumns; at += kThreads) {
        const int64_t d = d0 + at % kDepth, k = k0 + at / kDepth;
        shared.c[at % kDepth][at / kDepth] = d < depth && k < args.clusters ? to_float(centroids[k * depth + d]) : 0;
      }
      __syncthreads();
      for (int d = 0; d < kDepth; ++d) {
        for (int i = 0; i < kPatchRows; ++i)
          for (int j = 0; j < kPatchColumns; ++j)
            sum[i][j] += shared.x[d][ty * kPatchRows + i] * shared.c[d][tx + kSide * j];
        if (thread < kColumns) squared += shared.c[d][thread] * shared.c[d][thread];
        if (thread >= kColumns && thread < kColumns + kRows)
          squared += shared.x[d][thread - kColumns] * shared.x[d][thread - kColumns];
      }
      __syncthreads();
    }
    if (thread < kColumns) {
      shared.c_squared[thread] = squared;
      atomic_peak(&shared.largest, squared);
    }
    if (thread >= kColumns && thread < kColumns + kRows) shared.x_squared[thread - kColumns] = squared;
    __syncthreads();
    for (int i = 0; i < kPatchRows; ++i)
      for (int j = 0; j < kPatchColumns; ++j) {
        const int64_t k = k0 + tx + kSide * j;
        if (k >= args.clusters) continue;
        float value = shared.c_squared[tx + kSide * j] - 2 * sum[i][j];
        int32_t at = static_cast<int32_t>(k);
        for (int s = 0; s < kKept; ++s)
          if (value < score[i][s]) {
            const float other = score[i][s];
            const int32_t other_at = index[i][s];
            score[i][s] = value, index[i][s] = at;
            value = other, at = other_at;
          }
        dropped[i] = fminf(dropped[i], value);
      }
    __syncthreads();
  }
  for (int i = 0; i < kPatchRows; ++i) {
    const int row = ty * kPatchRows + i;
    for (int s = 0; s < kKept; ++s) {
      shared.score[row][tx * kKept + s] = score[i][s];
      shared.index[row][tx * kKept + s] = index[i][s];
    }
    shared.dropped[row][tx] = dropped[i];
  }
  __syncthreads();
  for (int row = thread / kWarp; row < kRows; row += kThreads / kWarp) {
    const int64_t n = n0 + row;
    if (n >= args.count) break;
    const Nearest nearest = decide(args, patches + n * depth, shared.score[row][lane], shared.index[row][lane],
                                   shared.dropped[row][lane % kSide], shared.x_squared[row], shared.largest, lane);
    if (lane == 0) {
      args.index[n] = nearest.index;
      args.distance[n] = sqrtf(nearest.squared);
    }
  }
}

template <class T>
int launch(const KmeansArgs& args, CUstream_st* stream) {
  if (args.count <= 4096)
    EDGEAD_LAUNCH((kmeans_assign_kernel<T, 1>), dim3(static_cast<unsigned>(ceil_div(args.count, kSide))), dim3(kThreads),
                  stream, args);
  else
    EDGEAD_LAUNCH((kmeans_assign_kernel<T, 4>), dim3(static_cast<unsigned>(ceil_div(args.count, 4 * kSide))),
                  dim3(kThreads), stream, args);
  return cudaGetLastError();
}

}  // namespace

int kmeans_assign_cuda(const KmeansArgs& args, bool half, CUstream_st* stream) {
  if (args.count == 0) return cudaSuccess;
#ifndef EDGEAD_CUDA_ON_HOST
  if (half) return launch<__half>(args, stream);
#endif
  (void)half;
  return launch<float>(args, stream);
}

}  // namespace edgead
