// AMX tiles as arrays, so that a machine without AMX can run the code that is written for it.
#pragma once

#include <stdint.h>
#include <string.h>

namespace tiles_on_host {

struct State {
  alignas(64) uint32_t tile[8][16][16];
  bool configured;
};
static thread_local State state;

// Refuses what the code does not use: a setting other than eight full tiles.
static inline void load_config(const void* setting) {
  const uint8_t* bytes = static_cast<const uint8_t*>(setting);
  bool full = bytes[0] == 1;
  for (int tile = 0; tile < 8; ++tile)
    full = full && bytes[16 + 2 * tile] == 64 && bytes[17 + 2 * tile] == 0 && bytes[48 + tile] == 16;
  if (!full) __builtin_trap();
  state.configured = true;
}

static inline uint32_t (&tile(int number))[16][16] {
  if (!state.configured) __builtin_trap();
  return state.tile[number];
}

static inline void load(int to, const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row) memcpy(tile(to)[row], static_cast<const char*>(from) + row * stride, 64);
}

static inline void keep(int from, void* to, int64_t stride) {
  for (int row = 0; row < 16; ++row) memcpy(static_cast<char*>(to) + row * stride, tile(from)[row], 64);
}

static inline float half(uint32_t word, int which) {
  const uint32_t bits = which ? word & 0xffff0000u : word << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline void multiply(int sums, int left, int right) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      float sum;
      memcpy(&sum, &tile(sums)[i][j], sizeof sum);
      for (int k = 0; k < 16; ++k)
        for (int which = 0; which < 2; ++which) sum += half(tile(left)[i][k], which) * half(tile(right)[k][j], which);
      memcpy(&tile(sums)[i][j], &sum, sizeof sum);
    }
}

}  // namespace tiles_on_host

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(setting) tiles_on_host::load_config(setting)
#define _tile_release() ((void)(tiles_on_host::state.configured = false))
#define _tile_zero(number) memset(tiles_on_host::tile(number), 0, sizeof(uint32_t[16][16]))
#define _tile_loadd(to, from, stride) tiles_on_host::load(to, from, stride)
#define _tile_stored(from, to, stride) tiles_on_host::keep(from, to, stride)
#define _tile_dpbf16ps(sums, left, right) tiles_on_host::multiply(sums, left, right)
