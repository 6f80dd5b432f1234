// The only file that knows Python. Arguments were checked in edgead/kernels/__init__.py, so what arrives here is
// C-contiguous, of the right type and rank; what is checked again is only what memory safety hangs on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "dispatch.h"
#include "heatmap.h"
#include "kmeans_assign.h"
#include "resize.h"
#include "thread_pool.h"
#include "topk_neighbours.h"

namespace py = pybind11;

namespace edgead {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
template <class T>
using Optional = std::optional<Array<T>>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void kmeans_assign(Array<float> patches, Array<float> centroids, Array<int32_t> index, Array<float> distance,
                   int threads) {
  require(patches.ndim() == 2 && centroids.ndim() == 2 && patches.shape(1) == centroids.shape(1), "shapes disagree");
  require(index.size() == patches.shape(0) && distance.size() == patches.shape(0), "outputs are not [N]");
  const KmeansArgs args{patches.data(),    centroids.data(),     patches.shape(0),        centroids.shape(0),
                        patches.shape(1), index.mutable_data(), distance.mutable_data()};
  py::gil_scoped_release release;
  kmeans_assign_cpu(args, threads);
}

void topk_neighbours(Array<float> f, Array<float> g, Optional<float> position, Array<int32_t> index, int threads) {
  require(f.ndim() == 3 && g.ndim() == 3 && index.ndim() == 3 && f.size() == g.size(), "shapes disagree");
  require(index.shape(0) == f.shape(0) && index.shape(1) == f.shape(1) && index.shape(2) <= f.shape(1),
          "output is not [B, N, K]");
  require(!position || position->size() == f.shape(1) * f.shape(1), "position is not [N, N]");
  const TopkArgs args{f.data(),   g.data(),   position ? position->data() : nullptr, f.shape(0),
                      f.shape(1), f.shape(2), index.shape(2),                        index.mutable_data()};
  py::gil_scoped_release release;
  topk_neighbours_cpu(args, threads);
}

void heatmap(Array<float> map, Array<int32_t> row_band, Array<float> row_weights, Array<int32_t> column_band,
             Array<float> column_spread, float threshold, Array<float> out, Array<float> peak, Optional<uint8_t> mask,
             int threads) {
  require(map.ndim() == 3 && out.ndim() == 3 && map.shape(0) == out.shape(0), "maps are not [B, h, w] and [B, H, W]");
  require(row_band.shape(0) == out.shape(1) && column_band.shape(0) == out.shape(2), "tables are of another size");
  require(column_spread.shape(0) == map.shape(2) && column_spread.shape(1) == (out.shape(2) + 15) / 16 * 16,
          "column_spread is not [w, W rounded up to 16]");
  require(peak.size() == map.shape(0) && (!mask || mask->size() == out.size()), "peak or mask is of another size");
  HeatmapArgs args{};
  args.map = map.data();
  args.batch = map.shape(0), args.in_height = map.shape(1), args.in_width = map.shape(2);
  args.out_height = out.shape(1), args.out_width = out.shape(2);
  args.row_band = row_band.data(), args.row_weights = row_weights.data(), args.row_taps = row_weights.shape(1);
  args.column_band = column_band.data(), args.column_spread = column_spread.data();
  args.spread_pitch = column_spread.shape(1);
  args.threshold = threshold;
  args.out = out.mutable_data(), args.peak = peak.mutable_data(), args.mask = mask ? mask->mutable_data() : nullptr;
  py::gil_scoped_release release;
  heatmap_cpu(args, threads);
}

// frame: [H, W, C] with contiguous pixels in each row; rows may be any number of bytes apart.
void resize(py::array_t<uint8_t> frame, Array<int32_t> row_start, Array<int16_t> row_weights,
            Array<int32_t> column_start, Array<int16_t> column_weights, std::vector<int> channels, Array<uint8_t> out,
            int threads) {
  require(frame.ndim() == 3 && out.ndim() == 3 && (frame.shape(2) == 1 || frame.strides(2) == 1) &&
              (frame.shape(1) == 1 || frame.strides(1) == frame.shape(2)),
          "pixels of a row are not contiguous");
  require(row_start.size() == out.shape(0) && column_start.size() == out.shape(1), "tables are of another size");
  require(static_cast<py::ssize_t>(channels.size()) == out.shape(2) && channels.size() <= 4, "channels do not fit");
  ResizeArgs args{};
  args.frame = frame.data(), args.row_stride = frame.strides(0);
  args.in_height = frame.shape(0), args.in_width = frame.shape(1), args.in_channels = frame.shape(2);
  args.out_height = out.shape(0), args.out_width = out.shape(1), args.out_channels = out.shape(2);
  args.row_start = row_start.data(), args.row_weights = row_weights.data(), args.row_taps = row_weights.shape(1);
  args.column_start = column_start.data(), args.column_weights = column_weights.data();
  args.column_taps = column_weights.shape(1);
  for (size_t c = 0; c < channels.size(); ++c) args.channels[c] = static_cast<int8_t>(channels[c]);
  args.out = out.mutable_data();
  py::gil_scoped_release release;
  resize_cpu(args, threads);
}

}  // namespace
}  // namespace edgead

PYBIND11_MODULE(_C, m) {
  using namespace edgead;
  m.doc() = "Kernels of edgead. Use edgead.kernels, which checks arguments; these functions trust them.";
  m.def("kmeans_assign", &kmeans_assign, py::arg("patches").noconvert(), py::arg("centroids").noconvert(),
        py::arg("index").noconvert(), py::arg("distance").noconvert(), py::arg("threads"));
  m.def("topk_neighbours", &topk_neighbours, py::arg("f").noconvert(), py::arg("g").noconvert(),
        py::arg("position").noconvert(), py::arg("index").noconvert(), py::arg("threads"));
  m.def("heatmap", &heatmap, py::arg("map").noconvert(), py::arg("row_band"), py::arg("row_weights"),
        py::arg("column_band"), py::arg("column_spread"), py::arg("threshold"), py::arg("out").noconvert(),
        py::arg("peak").noconvert(), py::arg("mask").noconvert(), py::arg("threads"));
  m.def("resize", &resize, py::arg("frame").noconvert(), py::arg("row_start"), py::arg("row_weights"),
        py::arg("column_start"), py::arg("column_weights"), py::arg("channels"), py::arg("out").noconvert(),
        py::arg("threads"));
  m.def("instruction_sets", &instruction_sets, "Instruction sets built in that this processor has, best first.");
  m.def("instruction_set", &instruction_set, "The one in use.");
  m.def("use_instruction_set", &use_instruction_set, py::arg("name"), "Choose another one: for tests and benchmarks.");
  m.def("scratch_bytes", &scratch_bytes, "Bytes of scratch memory that the calling thread keeps.");
}
