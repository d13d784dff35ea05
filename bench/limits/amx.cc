// The most multiplications and additions of fp32 that tile registers can do, each fp32 as three
// bf16 and six of their products: tiles of random numbers that never leave the registers. (With
// zeros the processor runs faster than any product can.) amx THREADS; answers `run` with the
// seconds of one pass of 2³¹ operations a thread.
#include <cstdint>

#include "limit.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

bool permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl(2)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// bf16 in ±[0.5, 2).
void fill(uint16_t (&tile)[512], uint64_t seed) {
  for (uint16_t& value : tile) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    value = static_cast<uint16_t>((seed & 0x80ff) | 0x3f00);
  }
  // The intrinsics do not tell the compiler that they read it.
  asm volatile("" : : "r"(&tile) : "memory");
}

void pass() {
  constexpr int64_t kOperations = int64_t{1} << 31, kProducts = 6;
  constexpr int64_t kInstruction = 2 * 16 * 16 * 32;
  static constexpr Shapes kShapes;
  _tile_loadconfig(&kShapes);
  alignas(64) uint16_t tile[512];
  fill(tile, 88172645463325252);
  _tile_loadd(4, tile, 64);
  _tile_loadd(6, tile, 64);
  fill(tile, 2463534242);
  _tile_loadd(5, tile, 64);
  _tile_loadd(7, tile, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t done = 0; done < kOperations * kProducts; done += 4 * kInstruction) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace
#else
static bool permitted() { return false; }
static void pass() {}
#endif

int main(int argc, char** argv) {
  if (!permitted()) {
    std::cerr << "this processor has no tile registers\n";
    return 1;
  }
  return serve_limit(argc, argv, pass);
}
