// The only file that knows Python. Arguments were checked in edgead/kernels/__init__.py, so what arrives here is
// C-contiguous, of the right type and rank; what is checked again is only what memory safety hangs on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <vector>

#include "cuda_device.h"
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

// ---- CUDA: pointers as integers, checked and kept alive by edgead/kernels/cuda.py ----

template <class T>
T* at(uintptr_t pointer) {
  return reinterpret_cast<T*>(pointer);
}

void check_cuda(int error) {
  if (error != 0) throw std::runtime_error(cuda_error_text(error));
}

// Makes a device current for a call and restores the caller's.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) { check_cuda(use_device(device, &before_)); }
  ~DeviceGuard() {
    int ignored;
    if (before_ != device_) use_device(before_, &ignored);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_, before_ = -1;
};

// A weight table on a device, kept as long as the Python object lives.
class DeviceTable {
 public:
  DeviceTable(py::buffer host, int device) : device_(device) {
    const py::buffer_info info = host.request();
    const DeviceGuard guard(device);
    check_cuda(upload(info.ptr, static_cast<size_t>(info.size * info.itemsize), &memory_));
  }
  ~DeviceTable() {
    int before, ignored;
    if (use_device(device_, &before) != 0) return;
    release(memory_);
    use_device(before, &ignored);
  }
  DeviceTable(const DeviceTable&) = delete;
  DeviceTable& operator=(const DeviceTable&) = delete;
  uintptr_t pointer() const { return reinterpret_cast<uintptr_t>(memory_); }

 private:
  int device_;
  void* memory_ = nullptr;
};

int device_of_pointer(uintptr_t pointer) {
  int device = -1;
  check_cuda(device_of(at<void>(pointer), &device));
  return device;
}

void kmeans_assign_on(int device, uintptr_t stream, bool half, uintptr_t patches, uintptr_t centroids,
                      std::array<int64_t, 3> shape, uintptr_t index, uintptr_t distance) {
  const DeviceGuard guard(device);
  check_cuda(kmeans_assign_cuda({at<float>(patches), at<float>(centroids), shape[0], shape[1], shape[2],
                                 at<int32_t>(index), at<float>(distance)},
                                half, at<CUstream_st>(stream)));
}

void topk_neighbours_on(int device, uintptr_t stream, bool half, uintptr_t f, uintptr_t g, uintptr_t position,
                        std::array<int64_t, 4> shape, uintptr_t index) {
  const DeviceGuard guard(device);
  check_cuda(topk_neighbours_cuda({at<float>(f), at<float>(g), at<float>(position), shape[0], shape[1], shape[2],
                                   shape[3], at<int32_t>(index)},
                                  half, at<CUstream_st>(stream)));
}

// shape: B, h, w, H, W. tables: row band, row weights, column band, column weights; taps: of rows and columns.
void heatmap_on(int device, uintptr_t stream, bool half, uintptr_t map, std::array<int64_t, 5> shape,
                std::array<uintptr_t, 4> tables, std::array<int64_t, 2> taps, float threshold, uintptr_t out,
                uintptr_t peak, uintptr_t mask) {
  HeatmapArgs args{};
  args.map = at<float>(map);
  args.batch = shape[0], args.in_height = shape[1], args.in_width = shape[2];
  args.out_height = shape[3], args.out_width = shape[4];
  args.row_band = at<int32_t>(tables[0]), args.row_weights = at<float>(tables[1]), args.row_taps = taps[0];
  args.column_band = at<int32_t>(tables[2]), args.column_weights = at<float>(tables[3]), args.column_taps = taps[1];
  args.threshold = threshold;
  args.out = at<float>(out), args.peak = at<float>(peak), args.mask = at<uint8_t>(mask);
  const DeviceGuard guard(device);
  check_cuda(heatmap_cuda(args, half, at<CUstream_st>(stream)));
}

// shape: H, W, C of the crop, h, w. tables: row start, row weights, column start, column weights.
void resize_on(int device, uintptr_t stream, uintptr_t frame, int64_t row_stride, std::array<int64_t, 5> shape,
               std::array<uintptr_t, 4> tables, std::array<int64_t, 2> taps, std::vector<int> channels, uintptr_t out) {
  require(!channels.empty() && channels.size() <= 4, "channels do not fit");
  ResizeArgs args{};
  args.frame = at<uint8_t>(frame), args.row_stride = row_stride;
  args.in_height = shape[0], args.in_width = shape[1], args.in_channels = shape[2];
  args.out_height = shape[3], args.out_width = shape[4], args.out_channels = static_cast<int64_t>(channels.size());
  args.row_start = at<int32_t>(tables[0]), args.row_weights = at<int16_t>(tables[1]), args.row_taps = taps[0];
  args.column_start = at<int32_t>(tables[2]), args.column_weights = at<int16_t>(tables[3]), args.column_taps = taps[1];
  for (size_t c = 0; c < channels.size(); ++c) args.channels[c] = static_cast<int8_t>(channels[c]);
  args.out = at<uint8_t>(out);
  const DeviceGuard guard(device);
  check_cuda(resize_cuda(args, at<CUstream_st>(stream)));
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

  m.def("built_with_cuda", &built_with_cuda, "Whether this build holds the CUDA kernels.");
  m.def("device_of", &device_of_pointer, py::arg("pointer"), "Device of a pointer, -1 when it is no device memory.");
  py::class_<DeviceTable>(m, "DeviceTable", "A weight table copied to a device.")
      .def(py::init<py::buffer, int>(), py::arg("host"), py::arg("device"))
      .def_property_readonly("pointer", &DeviceTable::pointer);
  m.def("kmeans_assign_on", &kmeans_assign_on, py::arg("device"), py::arg("stream"), py::arg("half"),
        py::arg("patches"), py::arg("centroids"), py::arg("shape"), py::arg("index"), py::arg("distance"));
  m.def("topk_neighbours_on", &topk_neighbours_on, py::arg("device"), py::arg("stream"), py::arg("half"), py::arg("f"),
        py::arg("g"), py::arg("position"), py::arg("shape"), py::arg("index"));
  m.def("heatmap_on", &heatmap_on, py::arg("device"), py::arg("stream"), py::arg("half"), py::arg("map"),
        py::arg("shape"), py::arg("tables"), py::arg("taps"), py::arg("threshold"), py::arg("out"), py::arg("peak"),
        py::arg("mask"));
  m.def("resize_on", &resize_on, py::arg("device"), py::arg("stream"), py::arg("frame"), py::arg("row_stride"),
        py::arg("shape"), py::arg("tables"), py::arg("taps"), py::arg("channels"), py::arg("out"));
}
