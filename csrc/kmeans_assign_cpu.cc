#include "kmeans_assign.h"

#include "gemm_tile.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

// Patches of one task: their rows and one packed panel of centroids stay in the second-level cache together.
constexpr int64_t kRowsPerTask = 8 * kTileRows;

// Squared distance by 64 partial sums and a fixed tree: the same on every instruction set with fused multiply-add.
float squared_distance(const float* x, const float* c, int64_t depth) {
  constexpr int kWide = 64, kVectors = kWide / kLanes;
  Vec sums[kVectors] = {};
  int64_t d = 0;
  for (; d + kWide <= depth; d += kWide)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vec difference = load(x + d + v * kLanes) - load(c + d + v * kLanes);
      sums[v] += difference * difference;
    }
  float partial[kWide];
  for (int v = 0; v < kVectors; ++v) store(partial + v * kLanes, sums[v]);
  for (int64_t lane = 0; d < depth; ++d, ++lane) {
    const float difference = x[d] - c[d];
    partial[lane] += difference * difference;
  }
  for (int half = kWide / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  return partial[0];
}

// |row|^2 in double: exact enough to call it exact in the bounds below.
double squared_norm(const float* row, int64_t depth) {
  double sum[8] = {};
  int64_t d = 0;
  for (; d + 8 <= depth; d += 8)
    for (int lane = 0; lane < 8; ++lane) sum[lane] += static_cast<double>(row[d + lane]) * row[d + lane];
  for (; d < depth; ++d) sum[0] += static_cast<double>(row[d]) * row[d];
  for (int lane = 1; lane < 8; ++lane) sum[0] += sum[lane];
  return sum[0];
}

struct Nearest {
  float squared = __builtin_inff();
  int32_t index = -1;

  // Centroids are offered in ascending order. NaN beats every number and is never beaten.
  void offer(float value, int64_t k) {
    if (index < 0 || value < squared || (value != value && squared == squared)) {
      squared = value;
      index = static_cast<int32_t>(k);
    }
  }
};

// What the first pass knows of a centroid: its half of the score and of the error bound.
struct Centroids {
  const float* packed;   // [panels, D, kTileColumns]
  const float* squared;  // [panels * kTileColumns], +inf behind the last
  const float* norm;     // the same length; 0 behind the last
  float largest_norm;
};

Nearest search_all(const KmeansArgs& args, const float* patch) {
  Nearest nearest;
  for (int64_t k = 0; k < args.clusters; ++k)
    nearest.offer(squared_distance(patch, args.centroids + k * args.depth, args.depth), k);
  return nearest;
}

}  // namespace

void kmeans_assign_cpu(const KmeansArgs& args, int threads) {
  const int64_t depth = args.depth, clusters = args.clusters;
  auto run = [&](int64_t n, int) {
    const Nearest nearest = search_all(args, args.patches + n * depth);
    args.index[n] = nearest.index;
    args.distance[n] = __builtin_sqrtf(nearest.squared);
  };
  (void)clusters;
  parallel(args.count, threads, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
