// Threads that wait a moment for the next job and then sleep. No kernel owns threads of its own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgead {

// Runs body(context, task, worker) for each task in [0, tasks) on up to `threads` threads, the caller included, and
// returns when all are done. worker < threads. threads <= 0: as many as this process may run on.
// A second caller at the same time runs its tasks on its own thread alone: results never depend on the thread count.
void parallel_for(int64_t tasks, int threads, void (*body)(void* context, int64_t task, int worker), void* context);

// The thread count that `threads` stands for, never more than there are tasks.
int resolve_threads(int threads, int64_t tasks);

// Memory of the calling thread, 64-byte aligned, kept between calls; slot < kScratchSlots. Throws std::bad_alloc.
constexpr int kScratchSlots = 4;
void* scratch(int slot, size_t bytes);

// Bytes held by the calling thread's scratch.
size_t scratch_bytes();

}  // namespace edgead
