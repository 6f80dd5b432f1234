// csrc/*_cuda.cu compiled as host code, behind plain functions that tests/parity/test_kernels_cuda_on_host.py calls.
#include "cuda_on_host.h"
#include "heatmap.h"
#include "kmeans_assign.h"
#include "resize.h"
#include "topk_neighbours.h"

using namespace edgead;

extern "C" {

void run_in_descending_order(int descending) { on_host::descending = descending != 0; }

int run_kmeans_assign(const KmeansArgs* args) { return kmeans_assign_cuda(*args, false, nullptr); }
int run_topk_neighbours(const TopkArgs* args) { return topk_neighbours_cuda(*args, false, nullptr); }
int run_heatmap(const HeatmapArgs* args) { return heatmap_cuda(*args, false, nullptr); }
int run_resize(const ResizeArgs* args) { return resize_cuda(*args, nullptr); }

}  // extern "C"
