// A task is a tile's rows of f: their similarities with up to kStripColumns rows of g are made in cache and offered to a sorted
// list of K per row, so [N, N] never exists. Nearly all offers end at the comparison of a whole vector with a floor.
#include "topk_neighbours.h"

#include "gemm_tile.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

// Similarities of a block of rows that are held at a time; whole panels.
constexpr int64_t kStripColumns = 1024 / kTileColumns * kTileColumns;
constexpr int kFewRows = kTileRows / 3;  // of a last block: 64 rows are 5 x 12 + 4

// to = row / |row|; a zero row stays zero.
void unit_row(const float* row, int64_t channels, float* to) {
  Vec sums = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vec v = load(row + c);
    sums += v * v;
  }
  float sum = sum_of(sums);
  for (; c < channels; ++c) sum += row[c] * row[c];
  const float norm = __builtin_sqrtf(sum);
  const float divisor = norm == 0 ? 1 : norm;
  const Vec divisors = splat(divisor);
  for (c = 0; c + kLanes <= channels; c += kLanes) store(to + c, load(row + c) / divisors);
  for (; c < channels; ++c) to[c] = row[c] / divisor;
}

// The K best of one row so far, best first. NaN counts as larger than every number.
struct Best {
  float* score;  // [K]
  int32_t* index;
  int64_t k, size;

  static bool before(float a, float b) { return a > b || (a != a && b == b); }

  // Candidates come in ascending order, so on a tie the one that is there stays in front.
  void offer(float value, int64_t candidate) {
    if (size == k && !before(value, score[k - 1])) return;
    int64_t at = size < k ? size++ : k - 1;
    for (; at > 0 && before(value, score[at - 1]); --at) {
      score[at] = score[at - 1];
      index[at] = index[at - 1];
    }
    score[at] = value;
    index[at] = static_cast<int32_t>(candidate);
  }
};

constexpr int kGroups = 16, kGroupVectors = kGroups / kLanes;

// Subtracts the position similarity (or not, when null) and returns a value that at least k of the scores reach, -inf where
// none is known. Scores fall into 16 groups by their column; at least k reach the k-th largest of the groups' maxima.
float floor_of(float* scores, const float* position, int64_t width, int64_t k) {
  Vec maxima[kGroupVectors];
  for (Vec& v : maxima) v = splat(-__builtin_inff());
  int64_t j = 0;
  for (; j + kGroups <= width; j += kGroups)
    for (int v = 0; v < kGroupVectors; ++v) {
      Vec score = load(scores + j + v * kLanes);
      if (position) {
        score -= load(position + j + v * kLanes);
        store(scores + j + v * kLanes, score);
      }
      maxima[v] = score > maxima[v] ? score : maxima[v];
    }
  for (; position && j < width; ++j) scores[j] -= position[j];
  if (k > kGroups) return -__builtin_inff();
  VecMask above[kGroupVectors] = {};  // minus the number of larger maxima
  for (int w = 0; w < kGroupVectors; ++w)
    for (int lane = 0; lane < kLanes; ++lane)
      for (int v = 0; v < kGroupVectors; ++v) above[v] += splat(maxima[w][lane]) > maxima[v];
  Vec floors = splat(-__builtin_inff());
  for (int v = 0; v < kGroupVectors; ++v) {
    const Vec floor = above[v] <= static_cast<int32_t>(1 - k) ? maxima[v] : splat(-__builtin_inff());
    floors = floor > floors ? floor : floors;
  }
  float floor = floors[0];
  for (int lane = 1; lane < kLanes; ++lane) floor = floors[lane] > floor ? floors[lane] : floor;
  return floor;
}

// Offers scores[0 .. width) of columns first, first + 1, ..., but those that cannot be among the best.
void offer_all(Best& best, const float* scores, int64_t width, int64_t first, float floor) {
  for (int64_t j = 0; j < width; j += kLanes) {
    if (best.size == best.k && best.score[best.k - 1] > floor) floor = best.score[best.k - 1];
    if (j + kLanes <= width && !any(!(load(scores + j) < floor))) continue;
    for (int64_t at = j; at < least(j + kLanes, width); ++at)
      if (!(scores[at] < floor)) best.offer(scores[at], first + at);
  }
}

constexpr int kShortlist = 32;

// Integers in the order of the floats they stand for; NaN is the largest, -0 equals 0.
int32_t key_of(float value) {
  const float unsigned_zero = value + 0.0f;
  int32_t bits;
  memcpy(&bits, &unsigned_zero, sizeof bits);
  return value != value ? INT32_MAX : bits ^ ((bits >> 31) & INT32_MAX);
}

// The same result without a branch that random data would mispredict: what reaches the floor goes to a short list, in which
// each finds its rank by counting. False, and nothing done, where the list would overflow.
bool rank_all(Best& best, const float* scores, int64_t width, int64_t first, float floor) {
  float score[kShortlist + kLanes];
  int32_t index[kShortlist + kLanes];
  int64_t size = best.size;
  if (best.k > kGroups) return false;
  memcpy(score, best.score, size * sizeof(float));
  memcpy(index, best.index, size * sizeof(int32_t));
  if (size == best.k && best.score[size - 1] > floor) floor = best.score[size - 1];
  for (int64_t j = 0; j < width; j += kLanes) {
#if defined(__AVX512F__)
    const __mmask16 valid = width - j >= kLanes ? 0xffff : (1u << (width - j)) - 1;
    const __m512 v = _mm512_maskz_loadu_ps(valid, scores + j);
    const __mmask16 chosen = _mm512_mask_cmp_ps_mask(valid, v, _mm512_set1_ps(floor), _CMP_NLT_UQ);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_storeu_ps(score + size, _mm512_maskz_compress_ps(chosen, v));
    _mm512_storeu_si512(index + size, _mm512_maskz_compress_epi32(
                                          chosen, _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first + j)))));
    size += __builtin_popcount(chosen);
#else
    if (j + kLanes <= width && !any(!(load(scores + j) < floor))) continue;
    for (int64_t at = j; at < least(j + kLanes, width); ++at) {
      score[size] = scores[at];
      index[size] = static_cast<int32_t>(first + at);
      size += !(scores[at] < floor);
    }
#endif
    if (size > kShortlist) return false;
  }
  // Arrays, because a lane of a vector is dear to write and to read.
  int32_t keys[kShortlist], ranks[kShortlist];
  for (int i = 0; i < kShortlist; ++i) keys[i] = i < size ? key_of(score[i]) : INT32_MIN;
  const VecMask lanes = lane_numbers();
  for (int v = 0; v < size; v += kLanes) {
    VecMask key, rank = {};
    memcpy(&key, keys + v, sizeof key);
    for (int32_t i = 0; i < size; ++i) rank -= (keys[i] > key) | ((keys[i] == key) & (i - v < lanes));
    memcpy(ranks + v, &rank, sizeof rank);
  }
  float sorted_score[kShortlist];
  int32_t sorted_index[kShortlist];
  for (int64_t i = 0; i < size; ++i) sorted_score[ranks[i]] = score[i], sorted_index[ranks[i]] = index[i];
  for (int64_t i = 0; i < least(size, best.k); ++i) best.score[i] = sorted_score[i], best.index[i] = sorted_index[i];
  best.size = least(size, best.k);
  return true;
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
  const int workers = worth(threads, args.batch * nodes * nodes * (channels + 16) / kLanes);
  parallel(args.batch * panels, workers, pack);

  auto run = [&](int64_t task, int) {
    const int64_t b = task / blocks, i0 = task % blocks * kTileRows, count = least(kTileRows, nodes - i0);
    // Not a power of two: the rows of a strip would share their cache sets.
    const int64_t pitch = least(panels * kTileColumns, kStripColumns) + 16;
    float* rows = static_cast<float*>(scratch(1, kTileRows * (channels + pitch) * sizeof(float)));
    float* strip = rows + kTileRows * channels;
    if (count < kTileRows) memset(rows, 0, kTileRows * channels * sizeof(float));
    for (int64_t i = 0; i < count; ++i) unit_row(args.f + (b * nodes + i0 + i) * channels, channels, rows + i * channels);
    const auto multiply = count > kFewRows ? multiply_tile<kTileRows> : multiply_tile<kFewRows>;
    float* kept = static_cast<float*>(scratch(2, kTileRows * k * sizeof(float)));
    int32_t* index = args.index + (b * nodes + i0) * k;
    for (int64_t first = 0; first < nodes; first += kStripColumns) {
      const int64_t width = least(kStripColumns, nodes - first);
      for (int64_t j = 0; j < width; j += kTileColumns)
        multiply(rows, channels, packed + b * panels * panel_size + (first + j) * channels, channels, strip + j, pitch);
      for (int64_t i = 0; i < count; ++i) {
        const float* position = args.position ? args.position + (i0 + i) * nodes + first : nullptr;
        const float floor = floor_of(strip + i * pitch, position, width, k);
        Best best{kept + i * k, index + i * k, k, least(first, k)};
        if (!rank_all(best, strip + i * pitch, width, first, floor)) offer_all(best, strip + i * pitch, width, first, floor);
      }
    }
  };
  parallel(args.batch * blocks, workers, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
