// Enough of CUDA to run csrc/*_cuda.cu on a CPU: one thread a CUDA thread, one block at a time, barriers where CUDA has them.
// It checks indices, arithmetic and, under ThreadSanitizer, missing barriers; it says nothing about speed.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
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

struct Warp {
  std::barrier<> lanes{32};
  uint32_t slot[32];
};

struct Block {
  explicit Block(unsigned threads) : all(threads), warps((threads + 31) / 32) {
    for (auto& warp : warps) warp = std::make_unique<Warp>();
  }
  std::barrier<> all;
  std::vector<std::unique_ptr<Warp>> warps;
};

inline thread_local Block* block = nullptr;
inline thread_local unsigned thread = 0;

inline Warp& warp() { return *block->warps[thread / 32]; }

// Every lane gives a word and sees all 32.
template <class Use>
auto exchange(uint32_t word, Use use) {
  Warp& own = warp();
  own.slot[thread % 32] = word;
  own.lanes.arrive_and_wait();
  const auto result = use(own.slot);
  own.lanes.arrive_and_wait();
  return result;
}

template <class T>
T take(T value, unsigned source) {
  return std::bit_cast<T>(exchange(std::bit_cast<uint32_t>(value), [&](const uint32_t* slot) { return slot[source]; }));
}

}  // namespace on_host

inline thread_local dim3 threadIdx(0, 0, 0), blockIdx(0, 0, 0), blockDim, gridDim;

namespace on_host {

template <class Kernel, class Args>
void launch(Kernel kernel, dim3 grid, dim3 shape, const Args& args) {
  const unsigned count = shape.x * shape.y * shape.z;
  Block shared(count);
  std::barrier<> between(count);  // blocks take turns
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < count; ++t)
    threads.emplace_back([&, t] {
      block = &shared, thread = t, blockDim = shape, gridDim = grid;
      threadIdx = dim3(t % shape.x, t / shape.x % shape.y, t / (shape.x * shape.y));
      for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
        blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
        kernel(args);
        between.arrive_and_wait();
      }
    });
  for (auto& one : threads) one.join();
}

}  // namespace on_host

#define EDGEAD_LAUNCH(kernel, grid, block, stream, args) ((void)(stream), on_host::launch(kernel, grid, block, args))

inline void __syncthreads() { on_host::block->all.arrive_and_wait(); }
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

template <class T, class Better>
T atomic_choose(T* at, T value, Better better) {
  std::atomic_ref<T> cell(*at);
  T old = cell.load();
  while (better(value, old) && !cell.compare_exchange_weak(old, value)) {
  }
  return old;
}
template <class T>
T atomicMax(T* at, T value) {
  return atomic_choose(at, value, [](T a, T b) { return a > b; });
}
template <class T>
T atomicMin(T* at, T value) {
  return atomic_choose(at, value, [](T a, T b) { return a < b; });
}
