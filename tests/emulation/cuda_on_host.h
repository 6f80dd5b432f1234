// Enough of CUDA to run csrc/*_cuda.cu on a CPU: every CUDA thread of a block is a fiber that runs until it meets a barrier or a
// warp operation. Blocks come one after the other. Fibers are taken in ascending or in descending order: where a barrier is
// missing, the two orders read different values. It says nothing about speed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(threads)

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace on_host {

// Where fibers wait for each other.
struct Meeting {
  unsigned size, arrived = 0, generation = 0;
  void wait();
};

struct Warp {
  Meeting lanes{32};
  uint32_t slot[32];
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 * 1024);
  bool done = false;
};

struct Block {
  Meeting all;
  std::vector<Warp> warps;
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  void (*run)(const void*) = nullptr;
  const void* what = nullptr;
};

inline Block* block = nullptr;
inline unsigned thread = 0;
inline bool descending = false;

inline void yield() {
  const unsigned self = thread;
  swapcontext(&block->fibers[self].context, &block->scheduler);
}

inline void Meeting::wait() {
  const unsigned mine = generation;
  if (++arrived == size) {
    arrived = 0;
    ++generation;
  }
  while (generation == mine) yield();
}

inline Warp& warp() { return block->warps[thread / 32]; }

// Every lane gives a word and sees all 32.
template <class Use>
auto exchange(uint32_t word, Use use) {
  Warp& own = warp();
  own.slot[thread % 32] = word;
  own.lanes.wait();
  const auto result = use(own.slot);
  own.lanes.wait();
  return result;
}

template <class T>
T take(T value, unsigned source) {
  return std::bit_cast<T>(exchange(std::bit_cast<uint32_t>(value), [&](const uint32_t* slot) { return slot[source]; }));
}

}  // namespace on_host

inline dim3 threadIdx(0, 0, 0), blockIdx(0, 0, 0), blockDim, gridDim;

namespace on_host {

inline void enter() {
  block->run(block->what);
  block->fibers[thread].done = true;
}

template <class Kernel, class Args>
void launch(Kernel kernel, dim3 grid, dim3 shape, const Args& args) {
  struct Call {
    Kernel kernel;
    const Args& args;
  } call{kernel, args};
  const unsigned count = shape.x * shape.y * shape.z;
  blockDim = shape, gridDim = grid;
  Block shared{{count}, std::vector<Warp>((count + 31) / 32), std::vector<Fiber>(count), {}, {}, &call};
  shared.run = [](const void* what) {
    const Call& own = *static_cast<const Call*>(what);
    own.kernel(own.args);
  };
  block = &shared;
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
    blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
    for (Fiber& fiber : shared.fibers) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &shared.scheduler;
      fiber.done = false;
      makecontext(&fiber.context, enter, 0);
    }
    for (bool left = true; left;) {
      left = false;
      for (unsigned i = 0; i < count; ++i) {
        thread = descending ? count - 1 - i : i;
        if (shared.fibers[thread].done) continue;
        left = true;
        threadIdx = dim3(thread % shape.x, thread / shape.x % shape.y, thread / (shape.x * shape.y));
        swapcontext(&shared.scheduler, &shared.fibers[thread].context);
      }
    }
  }
}

}  // namespace on_host

#define EDGEAD_LAUNCH(kernel, grid, block, stream, args) ((void)(stream), on_host::launch(kernel, grid, block, args))

inline void __syncthreads() { on_host::block->all.wait(); }
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return on_host::take(value, static_cast<unsigned>(source) % 32);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned step) {
  const unsigned lane = on_host::thread % 32;
  return on_host::take(value, lane < step ? lane : lane - step);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return on_host::take(value, (on_host::thread % 32) ^ static_cast<unsigned>(bits));
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  return on_host::exchange(vote, [](const uint32_t* slot) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) votes |= (slot[lane] & 1u) << lane;
    return votes;
  });
}
inline int __ffs(int word) { return word == 0 ? 0 : std::countr_zero(static_cast<unsigned>(word)) + 1; }
inline int __popc(unsigned word) { return std::popcount(word); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }

template <class T>
T atomicMax(T* at, T value) {
  const T old = *at;
  *at = max(old, value);
  return old;
}
template <class T>
T atomicMin(T* at, T value) {
  const T old = *at;
  *at = min(old, value);
  return old;
}
