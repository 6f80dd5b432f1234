// Runs one kernel on arguments from a file: what the test under emulation starts. The file holds the op's sizes (int64, first
// their number), then blocks of bytes, each behind its length (int64). Outputs go to standard output as they lie in memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "heatmap.h"
#include "kmeans_assign.h"
#include "resize.h"
#include "topk_neighbours.h"

namespace {

std::FILE* file = nullptr;

int64_t read_number() {
  int64_t number = 0;
  if (std::fread(&number, sizeof number, 1, file) != 1) std::exit(3);
  return number;
}

template <class T>
std::vector<T> read_block() {
  std::vector<T> block(static_cast<size_t>(read_number()) / sizeof(T));
  if (!block.empty() && std::fread(block.data(), sizeof(T), block.size(), file) != block.size()) std::exit(3);
  return block;
}

template <class T>
void write_block(const std::vector<T>& block) {
  std::fwrite(block.data(), sizeof(T), block.size(), stdout);
}

}  // namespace

int main(int, char** argv) {
  using namespace edgead;
  const std::string op = argv[1];
  const int threads = std::atoi(argv[3]);
  file = std::fopen(argv[2], "rb");
  if (file == nullptr) return 2;
  std::vector<int64_t> size(static_cast<size_t>(read_number()));
  for (int64_t& one : size) one = read_number();
  if (op == "kmeans_assign") {  // N K D
    const auto x = read_block<float>(), c = read_block<float>();
    std::vector<int32_t> index(size[0]);
    std::vector<float> distance(size[0]);
    kmeans_assign_cpu({x.data(), c.data(), size[0], size[1], size[2], index.data(), distance.data()}, threads);
    write_block(index);
    write_block(distance);
  } else if (op == "topk_neighbours") {  // B N C K
    const auto f = read_block<float>(), g = read_block<float>(), position = read_block<float>();
    std::vector<int32_t> index(size[0] * size[1] * size[3]);
    topk_neighbours_cpu({f.data(), g.data(), position.data(), size[0], size[1], size[2], size[3], index.data()}, threads);
    write_block(index);
  } else if (op == "heatmap") {  // B h w H W, row taps, spread pitch
    const auto map = read_block<float>();
    const auto row_band = read_block<int32_t>();
    const auto row_weights = read_block<float>();
    const auto column_band = read_block<int32_t>();
    const auto spread = read_block<float>();
    std::vector<float> out(size[0] * size[3] * size[4]), peak(size[0]);
    std::vector<uint8_t> mask(out.size());
    HeatmapArgs args{};
    args.map = map.data(), args.batch = size[0], args.in_height = size[1], args.in_width = size[2];
    args.out_height = size[3], args.out_width = size[4];
    args.row_band = row_band.data(), args.row_weights = row_weights.data(), args.row_taps = size[5];
    args.column_band = column_band.data(), args.column_spread = spread.data(), args.spread_pitch = size[6];
    args.threshold = 0.5f, args.out = out.data(), args.peak = peak.data(), args.mask = mask.data();
    heatmap_cpu(args, threads);
    write_block(out);
    write_block(peak);
    write_block(mask);
  } else if (op == "resize") {  // H W C h w, row taps, column taps, channels...
    const auto frame = read_block<uint8_t>();
    const auto row_start = read_block<int32_t>();
    const auto row_weights = read_block<int16_t>();
    const auto column_start = read_block<int32_t>();
    const auto column_weights = read_block<int16_t>();
    ResizeArgs args{};
    args.frame = frame.data(), args.row_stride = size[1] * size[2];
    args.in_height = size[0], args.in_width = size[1], args.in_channels = size[2];
    args.out_height = size[3], args.out_width = size[4], args.out_channels = static_cast<int64_t>(size.size()) - 7;
    args.row_start = row_start.data(), args.row_weights = row_weights.data(), args.row_taps = size[5];
    args.column_start = column_start.data(), args.column_weights = column_weights.data(), args.column_taps = size[6];
    for (int64_t c = 0; c < args.out_channels; ++c) args.channels[c] = static_cast<int8_t>(size[7 + c]);
    std::vector<uint8_t> out(args.out_height * args.out_width * args.out_channels);
    args.out = out.data();
    resize_cpu(args, threads);
    write_block(out);
  } else {
    return 2;
  }
  return 0;
}
