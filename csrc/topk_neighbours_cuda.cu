// A block holds 16 rows of f and walks over g 64 rows at a time: a tile of similarities in shared memory, then each warp keeps
// the 32 best of its rows in registers, one a lane, sorted. A K above 32 takes one more walk for every 32 neighbours.
#include "cuda_common.cuh"
#include "topk_neighbours.h"

namespace edgead {
namespace {

constexpr int kRows = 16, kColumns = 64, kDepth = 16, kThreads = 128;
constexpr int kWarps = kThreads / kWarp, kRowsPerWarp = kRows / kWarps;
constexpr int kPatchRows = 2, kPatchColumns = 4;  // of a thread; 16 x 8 threads

struct Entry {
  float score;
  int32_t index;  // -1: empty, after everything
};

// NaN before numbers, large before small, low index before high.
__device__ bool before(Entry a, Entry b) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  const bool a_nan = is_nan(a.score), b_nan = is_nan(b.score);
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.score != b.score) return a.score > b.score;
  return a.index < b.index;
}

// Puts the candidates of the lanes into the sorted list of the warp's lanes.
__device__ void insert(Entry& kept, Entry candidate, int lane) {
  const Entry worst{__shfl_sync(kAllLanes, kept.score, kWarp - 1), __shfl_sync(kAllLanes, kept.index, kWarp - 1)};
  unsigned chosen = __ballot_sync(kAllLanes, before(candidate, worst));
  for (; chosen != 0; chosen &= chosen - 1) {
    const int source = __ffs(static_cast<int>(chosen)) - 1;
    const Entry entry{__shfl_sync(kAllLanes, candidate.score, source), __shfl_sync(kAllLanes, candidate.index, source)};
    const int place = __popc(__ballot_sync(kAllLanes, before(kept, entry)));
    const Entry left{__shfl_up_sync(kAllLanes, kept.score, 1), __shfl_up_sync(kAllLanes, kept.index, 1)};
    if (lane > place) kept = left;
    if (lane == place) kept = entry;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) topk_neighbours_kernel(TopkArgs args) {
  __shared__ float f_part[kDepth][kRows + 1], g_part[kDepth][kColumns + 1];
  __shared__ float f_norm[kRows], g_norm[kColumns];
  __shared__ float similarity[kRows][kColumns + 1];
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int tx = thread % 16, ty = thread / 16;
  const int64_t i0 = blockIdx.x * static_cast<int64_t>(kRows), nodes = args.nodes, channels = args.channels;
  const T* f = reinterpret_cast<const T*>(args.f) + blockIdx.y * nodes * channels;
  const T* g = reinterpret_cast<const T*>(args.g) + blockIdx.y * nodes * channels;
  const T* position = reinterpret_cast<const T*>(args.position);
  Entry last[kRowsPerWarp];  // the last neighbour of the walk before
  for (int64_t done = 0; done < args.k; done += kWarp) {
    Entry kept[kRowsPerWarp];
    for (int r = 0; r < kRowsPerWarp; ++r) kept[r] = {0, -1};
    for (int64_t j0 = 0; j0 < nodes; j0 += kColumns) {
      float sum[kPatchRows][kPatchColumns] = {};
      float norm = 0;  // threads 0..63: of a row of g; 64..79: of a row of f
      for (int64_t d0 = 0; d0 < channels; d0 += kDepth) {
        for (int at = thread; at < kDepth * kRows; at += kThreads) {
          const int64_t d = d0 + at % kDepth, i = i0 + at / kDepth;
          f_part[at % kDepth][at / kDepth] = d < channels && i < nodes ? to_float(f[i * channels + d]) : 0;
        }
        for (int at = thread; at < kDepth * kColumns; at += kThreads) {
          const int64_t d = d0 + at % kDepth, j = j0 + at / kDepth;
          g_part[at % kDepth][at / kDepth] = d < channels && j < nodes ? to_float(g[j * channels + d]) : 0;
        }
        __syncthreads();
        for (int d = 0; d < kDepth; ++d) {
          for (int i = 0; i < kPatchRows; ++i)
            for (int j = 0; j < kPatchColumns; ++j) sum[i][j] += f_part[d][ty * kPatchRows + i] * g_part[d][tx + 16 * j];
          if (thread < kColumns) norm += g_part[d][thread] * g_part[d][thread];
          if (thread >= kColumns && thread < kColumns + kRows)
            norm += f_part[d][thread - kColumns] * f_part[d][thread - kColumns];
        }
        __syncthreads();
      }
      norm = norm == 0 ? 1 : sqrtf(norm);
      if (thread < kColumns) g_norm[thread] = norm;
      if (thread >= kColumns && thread < kColumns + kRows) f_norm[thread - kColumns] = norm;
      __syncthreads();
      for (int i = 0; i < kPatchRows; ++i)
        for (int j = 0; j < kPatchColumns; ++j) {
          const int row = ty * kPatchRows + i, column = tx + 16 * j;
          float value = sum[i][j] / f_norm[row] / g_norm[column];
          if (position && i0 + row < nodes && j0 + column < nodes)
            value -= to_float(position[(i0 + row) * nodes + j0 + column]);
          similarity[row][column] = value;
        }
      __syncthreads();
      for (int r = 0; r < kRowsPerWarp; ++r)
        for (int part = 0; part < kColumns; part += kWarp) {
          const int64_t j = j0 + part + lane;
          Entry candidate{similarity[warp * kRowsPerWarp + r][part + lane], j < nodes ? static_cast<int32_t>(j) : -1};
          if (done > 0 && !before(last[r], candidate)) candidate.index = -1;
          insert(kept[r], candidate, lane);
        }
      __syncthreads();
    }
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int64_t i = i0 + warp * kRowsPerWarp + r;
      if (i < nodes && done + lane < args.k) args.index[(blockIdx.y * nodes + i) * args.k + done + lane] = kept[r].index;
      last[r] = {__shfl_sync(kAllLanes, kept[r].score, kWarp - 1), __shfl_sync(kAllLanes, kept[r].index, kWarp - 1)};
    }
  }
}

}  // namespace

int topk_neighbours_cuda(const TopkArgs& args, bool half, CUstream_st* stream) {
  // gridDim.y ends at 65535: a larger batch takes more launches.
  const int64_t size = args.nodes * args.channels * (half ? 2 : 4);
  for (int64_t b = 0; b < args.batch; b += 65535) {
    TopkArgs part = args;
    part.f = reinterpret_cast<const float*>(reinterpret_cast<const char*>(args.f) + b * size);
    part.g = reinterpret_cast<const float*>(reinterpret_cast<const char*>(args.g) + b * size);
    part.index = args.index + b * args.nodes * args.k;
    const int64_t batch = args.batch - b < 65535 ? args.batch - b : 65535;
    const dim3 grid(static_cast<unsigned>(ceil_div(args.nodes, kRows)), static_cast<unsigned>(batch)), block(kThreads);
#ifndef EDGEAD_CUDA_ON_HOST
    if (half)
      EDGEAD_LAUNCH(topk_neighbours_kernel<__half>, grid, block, stream, part);
    else
#endif
      EDGEAD_LAUNCH(topk_neighbours_kernel<float>, grid, block, stream, part);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace edgead
