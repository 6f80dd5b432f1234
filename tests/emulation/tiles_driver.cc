// kmeans_assign_cpu.cc compiled for AMX over tiles_on_host.h, behind a plain function that a test calls.
#include "kmeans_assign.h"

namespace edgead::amx {
void kmeans_assign_cpu(const KmeansArgs&, int);
}

extern "C" void run_kmeans_assign(const edgead::KmeansArgs* args, int threads) {
  edgead::amx::kmeans_assign_cpu(*args, threads);
}
