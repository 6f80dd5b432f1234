// A task is a block of rows of f: their similarities are made one packed panel of g at a time and offered to a sorted list
// of K per row, so [N, N] never exists. Most offers end at the comparison of a whole vector with the K-th best.
#include "topk_neighbours.h"

#include "gemm_tile.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

// to = row / |row|; a zero row stays zero.
void unit_row(const float* row, int64_t channels, float* to) {
  Vec sums = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vec v = load(row + c);
    sums += v * v;
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  for (; c < channels; ++c) sum += row[c] * row[c];
  const float norm = __builtin_sqrtf(sum);
  const float divisor = norm == 0 ? 1 : norm;
  for (c = 0; c < channels; ++c) to[c] = row[c] / divisor;
}

// The K best of one row so far, best first. NaN counts as larger than every number.
struct Best {
  float* score;  // [K]
  int32_t* index;
  int64_t k;

  static bool before(float a, float b) { return a > b || (a != a && b == b); }

  void offer(float value, int32_t candidate) const {
    if (!before(value, score[k - 1])) return;
    int64_t at = k - 1;
    for (; at > 0 && before(value, score[at - 1]); --at) {
      score[at] = score[at - 1];
      index[at] = index[at - 1];
    }
    score[at] = value;
    index[at] = candidate;
  }
};

// Offers scores[0 .. count) of columns first .. first + count.
void offer_all(Best best, const float* scores, int64_t count, int64_t first) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const Vec v = load(scores + j);
    if (!any((v > best.score[best.k - 1]) | (v != v))) continue;
    for (int lane = 0; lane < kLanes; ++lane) best.offer(v[lane], static_cast<int32_t>(first + j + lane));
  }
  for (; j < count; ++j) best.offer(scores[j], static_cast<int32_t>(first + j));
}

}  // namespace

void topk_neighbours_cpu(const TopkArgs& args, int threads) {
  const int64_t nodes = args.nodes, channels = args.channels, k = args.k;
  if (args.batch == 0 || nodes == 0) return;
  const int64_t panels = (nodes + kTileColumns - 1) / kTileColumns;
  const int64_t blocks = (nodes + kTileRows - 1) / kTileRows;
  const int64_t panel_size = channels * kTileColumns;
  float* packed = static_cast<float*>(scratch(0, args.batch * panels * panel_size * sizeof(float) + 64));

  auto pack = [&](int64_t task, int) {
    const int64_t b = task / panels, j0 = task % panels * kTileColumns, count = least(kTileColumns, nodes - j0);
    float* rows = static_cast<float*>(scratch(1, kTileColumns * channels * sizeof(float) + 64));
    for (int64_t j = 0; j < count; ++j) unit_row(args.g + (b * nodes + j0 + j) * channels, channels, rows + j * channels);
    pack_columns(rows, channels, count, channels, packed + task * panel_size);
  };
  parallel(args.batch * panels, threads, pack);

  auto run = [&](int64_t task, int) {
    const int64_t b = task / blocks, i0 = task % blocks * kTileRows, count = least(kTileRows, nodes - i0);
    float* rows = static_cast<float*>(scratch(1, kTileRows * channels * sizeof(float) + 64));
    memset(rows, 0, kTileRows * channels * sizeof(float));
    for (int64_t i = 0; i < count; ++i) unit_row(args.f + (b * nodes + i0 + i) * channels, channels, rows + i * channels);
    float* kept = static_cast<float*>(scratch(2, kTileRows * k * sizeof(float)));
    for (int64_t i = 0; i < kTileRows * k; ++i) kept[i] = -__builtin_inff();
    int32_t* index = args.index + (b * nodes + i0) * k;
    // A similarity of -inf would never enter a list of -inf: until K were offered, every column is taken in order.
    int64_t offered = 0;
    for (int64_t panel = 0; panel < panels; ++panel) {
      alignas(64) float strip[kTileRows * kTileColumns];
      multiply_tile(rows, channels, packed + (b * panels + panel) * panel_size, channels, strip, kTileColumns);
      const int64_t j0 = panel * kTileColumns, width = least(kTileColumns, nodes - j0);
      for (int64_t i = 0; i < count; ++i) {
        float* scores = strip + i * kTileColumns;
        if (args.position)
          for (int64_t j = 0; j < width; ++j) scores[j] -= args.position[(i0 + i) * nodes + j0 + j];
        const Best best{kept + i * k, index + i * k, k};
        int64_t j = 0;
        for (; j < width && offered + j < k; ++j) {
          const Best filling{best.score, best.index, offered + j + 1};
          filling.score[filling.k - 1] = -__builtin_inff();
          filling.index[filling.k - 1] = static_cast<int32_t>(j0 + j);
          filling.offer(scores[j], static_cast<int32_t>(j0 + j));
        }
        offer_all(best, scores + j, width - j, j0 + j);
      }
      offered += width;
    }
  };
  parallel(args.batch * blocks, threads, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
