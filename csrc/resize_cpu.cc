// A task is a block of output rows. The vertical pass makes 8.7 fixed-point rows of the full source width in scratch; the
// horizontal pass then takes a group of output pixels and runs it down all rows of the block, so that what the group needs
// (where its samples lie, their weights) is prepared once a block. Both passes multiply pairs of 16-bit samples and add
// them into 32 bits in one instruction where there is one.
#include "resize.h"

#include "simd.h"

namespace edgead {
namespace EDGEAD_ISA {
namespace {

constexpr int kDown = kWeightBits - kIntermediateBits;
constexpr int kLast = kWeightBits + kIntermediateBits;
constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kPad = 96;  // samples behind a row that a vector may read; their weights are 0

struct Rows {
  int16_t* data;
  int64_t pitch, count;
};

#if defined(__AVX512BW__)
using Wide = __m512i;
inline Wide widen(const uint8_t* from) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)from)); }
inline Wide low_pairs(Wide a, Wide b) { return _mm512_unpacklo_epi16(a, b); }
inline Wide high_pairs(Wide a, Wide b) { return _mm512_unpackhi_epi16(a, b); }
inline Wide add_products(Wide sum, Wide a, Wide b) {
#if defined(__AVX512VNNI__)
  return _mm512_dpwssd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
inline Wide splat_int(int32_t value) { return _mm512_set1_epi32(value); }
inline Wide narrow(Wide low, Wide high) {
  return _mm512_packs_epi32(_mm512_srai_epi32(low, kDown), _mm512_srai_epi32(high, kDown));
}
#elif defined(__AVX2__)
using Wide = __m256i;
inline Wide widen(const uint8_t* from) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)from)); }
inline Wide low_pairs(Wide a, Wide b) { return _mm256_unpacklo_epi16(a, b); }
inline Wide high_pairs(Wide a, Wide b) { return _mm256_unpackhi_epi16(a, b); }
inline Wide add_products(Wide sum, Wide a, Wide b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline Wide splat_int(int32_t value) { return _mm256_set1_epi32(value); }
inline Wide narrow(Wide low, Wide high) {
  return _mm256_packs_epi32(_mm256_srai_epi32(low, kDown), _mm256_srai_epi32(high, kDown));
}
#endif

// Two weights as the pair that add_products takes.
inline int32_t pair_of(int16_t first, int16_t second) {
  return static_cast<int32_t>(static_cast<uint16_t>(first) | static_cast<uint32_t>(static_cast<uint16_t>(second)) << 16);
}

#if defined(__AVX2__)
// The vertical pass over whole vectors. kPairs: pairs of taps where there are few, so that their weights stay in registers;
// else 0. Returns the bytes done.
template <int kPairs>
int64_t vertical_wide(const uint8_t* source, int64_t stride, const int16_t* weights, int64_t taps, int64_t bytes,
                      int16_t* row) {
  constexpr int64_t kStep = sizeof(Wide) / 2;
  const int64_t pairs = kPairs ? kPairs : (taps + 1) / 2;
  const auto weight = [&](int64_t t) { return splat_int(pair_of(weights[2 * t], 2 * t + 1 < taps ? weights[2 * t + 1] : 0)); };
  // The tap that makes the number even has weight 0 and reads the last row once more.
  const auto second = [&](int64_t t) { return source + (2 * t + 1 < taps ? 2 * t + 1 : 2 * t) * stride; };
  Wide kept[kPairs ? kPairs : 1];
  const uint8_t* seconds[kPairs ? kPairs : 1];
  for (int t = 0; t < kPairs; ++t) kept[t] = weight(t), seconds[t] = second(t);
  int64_t x = 0;
  for (; x + kStep <= bytes; x += kStep) {
    Wide low = splat_int(1 << (kDown - 1)), high = low;
#pragma GCC unroll 4
    for (int64_t t = 0; t < pairs; ++t) {
      const Wide pair = kPairs ? kept[t] : weight(t);
      const Wide a = widen(source + 2 * t * stride + x), b = widen((kPairs ? seconds[t] : second(t)) + x);
      low = add_products(low, low_pairs(a, b), pair);
      high = add_products(high, high_pairs(a, b), pair);
    }
    const Wide rounded = narrow(low, high);
    memcpy(row + x, &rounded, sizeof rounded);
  }
  return x;
}
#endif

// row[x] = round(sum over t of weights[t] * source[t][x]) in 8.7 fixed point, over the bytes of a row.
void vertical(const uint8_t* source, int64_t stride, const int16_t* weights, int64_t taps, int64_t bytes, int16_t* row) {
  int64_t x = 0;
#if defined(__AVX2__)
  constexpr decltype(&vertical_wide<0>) kWays[] = {vertical_wide<0>, vertical_wide<1>, vertical_wide<2>, vertical_wide<3>,
                                                   vertical_wide<4>};
  x = kWays[taps <= 8 ? (taps + 1) / 2 : 0](source, stride, weights, taps, bytes, row);
#else
  constexpr int64_t kStep = 16;
  for (; x + kStep <= bytes; x += kStep) {
    int32_t sum[kStep];
    for (int64_t i = 0; i < kStep; ++i) sum[i] = 1 << (kDown - 1);
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < kStep; ++i) sum[i] += source[t * stride + x + i] * weights[t];
    for (int64_t i = 0; i < kStep; ++i) row[x + i] = static_cast<int16_t>(sum[i] >> kDown);
  }
#endif
  for (; x < bytes; ++x) {
    int32_t sum = 1 << (kDown - 1);
    for (int64_t t = 0; t < taps; ++t) sum += source[t * stride + x] * weights[t];
    row[x] = static_cast<int16_t>(sum >> kDown);
  }
}

#if defined(__AVX512BW__)

// A group of output pixels: 16 sums of 32 bits, one a channel of a pixel (4 slots a pixel, or 1 in mono frames). The sample
// pair of each slot is picked from 64 neighbouring samples. 16 pairs of weights for each pair of taps follow each group.
struct alignas(64) Group {
  int64_t x, pixels;  // output pixels
  int64_t base;       // first sample
  int64_t span;       // samples from base on that a pair of taps needs
  alignas(64) int16_t at[32];  // where the slots' samples lie from base; 2 taps a slot
};

struct Plan {
  char* groups;
  int64_t count, group_bytes, pairs;
  alignas(16) int8_t order[16];  // byte of the 16 sums' low bytes that each output byte takes
};

void fill_group(const ResizeArgs& args, int64_t pairs, int64_t slots, Group& group, int32_t* weight_pairs) {
  // A replicated mono frame has more output bytes than a vector of bytes holds.
  const int64_t channels = args.in_channels, most_pixels = least(16 / slots, 16 / args.out_channels);
  const int32_t first = args.column_start[group.x];
  group.base = first * channels;
  for (group.pixels = 0; group.pixels < most_pixels && group.x + group.pixels < args.out_width; ++group.pixels) {
    const int64_t from = (args.column_start[group.x + group.pixels] - first) * channels;
    if (from + 2 * channels > 64) break;
    group.span = from + 2 * channels;
    for (int64_t c = 0; c < channels; ++c) {
      int16_t* slot = group.at + 2 * (group.pixels * slots + c);
      slot[0] = static_cast<int16_t>(from + c);
      slot[1] = static_cast<int16_t>(from + channels + c);
    }
    const int16_t* weights = args.column_weights + (group.x + group.pixels) * args.column_taps;
    for (int64_t t = 0; t < pairs; ++t) {
      const int32_t pair = pair_of(weights[2 * t], 2 * t + 1 < args.column_taps ? weights[2 * t + 1] : 0);
      for (int64_t c = 0; c < slots; ++c) weight_pairs[16 * t + group.pixels * slots + c] = pair;
    }
  }
}

// Made once a call, in the caller's scratch.
Plan make_plan(const ResizeArgs& args) {
  const int64_t slots = args.in_channels == 1 ? 1 : 4;
  Plan plan{nullptr, 0, 0, (args.column_taps + 1) / 2, {}};
  plan.group_bytes = static_cast<int64_t>(sizeof(Group)) + plan.pairs * 64;
  plan.groups = static_cast<char*>(scratch(1, args.out_width * plan.group_bytes));
  for (int64_t x = 0; x < args.out_width; ++plan.count) {
    char* at = plan.groups + plan.count * plan.group_bytes;
    memset(at, 0, plan.group_bytes);
    Group& group = *reinterpret_cast<Group*>(at);
    group.x = x;
    fill_group(args, plan.pairs, slots, group, reinterpret_cast<int32_t*>(at + sizeof(Group)));
    x += group.pixels;
  }
  for (int64_t i = 0; i < 16; ++i)
    plan.order[i] = static_cast<int8_t>(i / args.out_channels * slots + args.channels[i % args.out_channels]);
  return plan;
}

// Runs a group down the rows. kTwo: the samples it picks from span more than one vector. kShared: one reading of them holds
// all taps. kPairs: pairs of taps where there are few, else 0.
template <bool kTwo, bool kShared, int kPairs>
void horizontal_group(const ResizeArgs& args, const Rows& rows, const Group& group, int64_t some_pairs, __m128i order,
                      uint8_t* out) {
  const int64_t pairs = kPairs ? kPairs : some_pairs, step = 2 * args.in_channels;
  const __m512i* weights = reinterpret_cast<const __m512i*>(&group + 1);
  const __mmask16 bytes = static_cast<__mmask16>((1u << (group.pixels * args.out_channels)) - 1);
  const int16_t* from = rows.data + group.base;
  out += group.x * args.out_channels;
  // Copies, because a store of bytes may alias anything that is reached through a reference.
  const int64_t count = rows.count, pitch = rows.pitch, out_pitch = args.out_width * args.out_channels;
  __m512i kept[kPairs ? kPairs : 1], at[kShared ? kPairs : 1];
  at[0] = _mm512_load_si512(group.at);
  for (int t = 0; t < kPairs; ++t) kept[t] = weights[t];
  for (int t = 1; kShared && t < kPairs; ++t) at[t] = _mm512_add_epi16(at[0], _mm512_set1_epi16(static_cast<int16_t>(t * step)));
#pragma GCC unroll 2
  for (int64_t y = 0; y < count; ++y, from += pitch, out += out_pitch) {
    __m512i sum = _mm512_set1_epi32(1 << (kLast - 1));
#pragma GCC unroll 4
    for (int64_t t = 0; t < pairs; ++t) {
      const int16_t* window = kShared ? from : from + t * step;
      const __m512i near = _mm512_loadu_si512(window), pick = at[kShared ? t : 0];
      const __m512i picked = kTwo ? _mm512_permutex2var_epi16(near, pick, _mm512_loadu_si512(window + 32))
                                  : _mm512_permutexvar_epi16(pick, near);
      sum = add_products(sum, picked, kPairs ? kept[t] : weights[t]);
    }
    const __m128i values = _mm512_cvtepi32_epi8(_mm512_srai_epi32(sum, kLast));
    _mm_mask_storeu_epi8(out, bytes, _mm_shuffle_epi8(values, order));
  }
}

template <int kPairs>
void horizontal_all(const ResizeArgs& args, const Plan& plan, const Rows& rows, uint8_t* out) {
  const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(plan.order));
  for (int64_t i = 0; i < plan.count; ++i) {
    const Group& group = *reinterpret_cast<const Group*>(plan.groups + i * plan.group_bytes);
    const int64_t reach = group.span + (plan.pairs - 1) * 2 * args.in_channels;
    const auto run = kPairs && reach <= 32   ? horizontal_group<false, (kPairs > 0), kPairs>
                     : group.span <= 32      ? horizontal_group<false, false, kPairs>
                     : kPairs && reach <= 64 ? horizontal_group<true, (kPairs > 0), kPairs>
                                             : horizontal_group<true, false, kPairs>;
    run(args, rows, group, plan.pairs, order, out);
  }
}

void horizontal(const ResizeArgs& args, const Plan& plan, const Rows& rows, uint8_t* out) {
  constexpr decltype(&horizontal_all<0>) kWays[] = {horizontal_all<0>, horizontal_all<1>, horizontal_all<2>, horizontal_all<3>,
                                                     horizontal_all<4>};
  kWays[plan.pairs <= 4 ? plan.pairs : 0](args, plan, rows, out);
}

#else

template <int kChannels>
void horizontal_row(const ResizeArgs& args, const int16_t* row, uint8_t* out) {
  for (int64_t x = 0; x < args.out_width; ++x) {
    const int16_t* from = row + args.column_start[x] * kChannels;
    const int16_t* weights = args.column_weights + x * args.column_taps;
    int32_t sum[4] = {};
    int64_t t = 0;
#if defined(__AVX2__)
    if (kChannels > 1) {
      const __m128i order = kChannels == 3 ? _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1)
                                           : _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
      __m128i sums = _mm_setzero_si128();
      for (; t + 2 <= args.column_taps; t += 2) {
        const __m128i samples = _mm_loadu_si128((const __m128i*)(from + t * kChannels));
        sums = _mm_add_epi32(sums, _mm_madd_epi16(_mm_shuffle_epi8(samples, order),
                                                  _mm_set1_epi32(pair_of(weights[t], weights[t + 1]))));
      }
      _mm_storeu_si128((__m128i*)sum, sums);
    }
#endif
    for (; t < args.column_taps; ++t)
      for (int c = 0; c < kChannels; ++c) sum[c] += weights[t] * from[t * kChannels + c];
    for (int64_t c = 0; c < args.out_channels; ++c)
      out[x * args.out_channels + c] = static_cast<uint8_t>((sum[args.channels[c]] + (1 << (kLast - 1))) >> kLast);
  }
}

struct Plan {};
Plan make_plan(const ResizeArgs&) { return {}; }

void horizontal(const ResizeArgs& args, const Plan&, const Rows& rows, uint8_t* out) {
  const auto run = args.in_channels == 1 ? horizontal_row<1> : args.in_channels == 3 ? horizontal_row<3> : horizontal_row<4>;
  for (int64_t y = 0; y < rows.count; ++y)
    run(args, rows.data + y * rows.pitch, out + y * args.out_width * args.out_channels);
}

#endif

}  // namespace

void resize_cpu(const ResizeArgs& args, int threads) {
  const int64_t bytes = args.in_width * args.in_channels, height = args.out_height;
  const int64_t work = height * (bytes * args.row_taps + args.out_width * args.in_channels * args.column_taps) / kLanes;
  const int workers = worth(threads, work);
  const int64_t block = most(least((height + workers - 1) / workers, kRowsPerTask), 1);
  const Plan plan = make_plan(args);
  auto run = [&](int64_t task, int) {
    const int64_t y0 = task * block;
    Rows rows{nullptr, round_up(bytes, 32) + kPad, least(block, height - y0)};
    rows.data = static_cast<int16_t*>(scratch(0, rows.count * rows.pitch * sizeof(int16_t)));
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t y = y0 + i;
      vertical(args.frame + args.row_start[y] * args.row_stride, args.row_stride, args.row_weights + y * args.row_taps,
               args.row_taps, bytes, rows.data + i * rows.pitch);
    }
    horizontal(args, plan, rows, args.out + y0 * args.out_width * args.out_channels);
  };
  parallel((height + block - 1) / block, workers, run);
}

}  // namespace EDGEAD_ISA
}  // namespace edgead
