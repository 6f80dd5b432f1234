#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <stdexcept>

#include "heatmap.h"
#include "kmeans_assign.h"
#include "resize.h"
#include "topk_neighbours.h"

namespace edgead {

#define EDGEAD_DECLARE(isa)                            \
  namespace isa {                                      \
  void heatmap_cpu(const HeatmapArgs&, int);           \
  void kmeans_assign_cpu(const KmeansArgs&, int);      \
  void resize_cpu(const ResizeArgs&, int);             \
  void topk_neighbours_cpu(const TopkArgs&, int);      \
  }
#define EDGEAD_TABLE(isa, is_there) \
  {#isa, is_there, isa::heatmap_cpu, isa::kmeans_assign_cpu, isa::resize_cpu, isa::topk_neighbours_cpu}

EDGEAD_DECLARE(baseline)
#if defined(__x86_64__)
EDGEAD_DECLARE(avx2)
EDGEAD_DECLARE(avx512)
EDGEAD_DECLARE(avx512_bf16)
EDGEAD_DECLARE(amx)
#endif

namespace {

struct Kernels {
  const char* name;
  bool (*is_there)();
  void (*heatmap)(const HeatmapArgs&, int);
  void (*kmeans_assign)(const KmeansArgs&, int);
  void (*resize)(const ResizeArgs&, int);
  void (*topk_neighbours)(const TopkArgs&, int);
};

bool has_baseline() { return true; }
#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
// The tile registers are large: the operating system must save them (XCR0) and, on Linux, be asked for them.
bool has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kSaved = 3u << 17;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & kSaved) != kSaved) return false;
  constexpr long kGetPermission = 0x1022, kRequestPermission = 0x1023, kTileData = 18;
  unsigned long granted = 0;
  return has_avx512_bf16() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 &&
         syscall(SYS_arch_prctl, kGetPermission, &granted) == 0 && (granted >> kTileData & 1) != 0;
}
#endif

// Best first.
constexpr Kernels kKernels[] = {
#if defined(__x86_64__)
    EDGEAD_TABLE(amx, has_amx),
    EDGEAD_TABLE(avx512_bf16, has_avx512_bf16),
    EDGEAD_TABLE(avx512, has_avx512),
    EDGEAD_TABLE(avx2, has_avx2),
#endif
    EDGEAD_TABLE(baseline, has_baseline),
};

const Kernels& best() {
  for (const Kernels& kernels : kKernels)
    if (kernels.is_there()) return kernels;
  throw std::logic_error("no instruction set fits this processor");
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{&best()};
  return kernels;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels& kernels : kKernels)
    if (kernels.is_there()) names.emplace_back(kernels.name);
  return names;
}

std::string instruction_set() { return chosen().load()->name; }

void use_instruction_set(const std::string& name) {
  std::string known;
  for (const Kernels& kernels : kKernels) {
    if (!kernels.is_there()) continue;
    if (name == kernels.name) {
      chosen().store(&kernels);
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(kernels.name);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not one of this machine's: " + known);
}

void heatmap_cpu(const HeatmapArgs& args, int threads) { chosen().load()->heatmap(args, threads); }
void kmeans_assign_cpu(const KmeansArgs& args, int threads) { chosen().load()->kmeans_assign(args, threads); }
void resize_cpu(const ResizeArgs& args, int threads) { chosen().load()->resize(args, threads); }
void topk_neighbours_cpu(const TopkArgs& args, int threads) { chosen().load()->topk_neighbours(args, threads); }

}  // namespace edgead
