// Stands in for the *_cuda.cu files in a build without CUDA: every call answers that there is none.
#include "cuda_device.h"
#include "heatmap.h"
#include "kmeans_assign.h"
#include "resize.h"
#include "topk_neighbours.h"

namespace edgead {
namespace {
constexpr int kAbsent = 1;
}

bool built_with_cuda() { return false; }
const char* cuda_error_text(int) { return "edgead was built without CUDA; install it where nvcc is on the PATH"; }
int device_of(const void*, int* device) { return *device = -1, kAbsent; }
int use_device(int, int* before) { return *before = -1, kAbsent; }
int upload(const void*, size_t, void**) { return kAbsent; }
void release(void*) {}

int heatmap_cuda(const HeatmapArgs&, bool, CUstream_st*) { return kAbsent; }
int kmeans_assign_cuda(const KmeansArgs&, bool, CUstream_st*) { return kAbsent; }
int resize_cuda(const ResizeArgs&, CUstream_st*) { return kAbsent; }
int topk_neighbours_cuda(const TopkArgs&, bool, CUstream_st*) { return kAbsent; }

}  // namespace edgead
