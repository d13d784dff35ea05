// The tile of C that stays in registers while its terms are added up, for gemm_simd.cc.
#pragma once
#include <utility>

#include "core/simd.h"
#include "gemm/epilogue.h"

namespace dsjs::DSJS_ISA {
namespace {

// rows × vectors accumulators, one row of B and one broadcast element of A fill the registers.
#if defined(DSJS_ISA_AVX512)
constexpr size_t kTileRows = 14, kTileVectors = 2;
#elif defined(DSJS_ISA_AVX2)
constexpr size_t kTileRows = 6, kTileVectors = 2;
#elif defined(DSJS_ISA_NEON)
constexpr size_t kTileRows = 8, kTileVectors = 3;
#else
constexpr size_t kTileRows = 4, kTileVectors = 2;
#endif
constexpr size_t kTileColumns = kTileVectors * kLanes;

template <size_t kRows, size_t kVectors>
inline void store_tile(const F32 (&sum)[kRows][kVectors], float* c, size_t ldc, size_t columns,
                       float alpha, bool replace) {
  const F32 factor = splat(alpha);
  const size_t rest = columns - (kVectors - 1) * kLanes;
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
    float* to = c + r * ldc;
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v, to += kLanes) {
      const F32 value = factor * sum[r][v];
      if (v + 1 < kVectors || rest == kLanes)
        store(to, replace ? value : load(to) + value);
      else
        store_part(to, replace ? value : load_part(to, rest) + value, rest);
    }
  }
}

// C[r][j] = (replace ? 0 : C[r][j]) + alpha · Σ a[k][r]·b[k][j] for r < kRows and j < columns,
// where columns fill all of kVectors vectors but part of the last. `a`: kRows floats a term; `b`:
// kVectors vectors a term. alpha comes by address: every register is taken. `later` is asked for
// first.
template <size_t kRows, size_t kVectors>
void tile(size_t depth, const float* a, const float* b, float* c, size_t ldc, size_t columns,
          const float* alpha, bool replace, const Later& later) {
  for (size_t r = 0; r < kRows; ++r) later.fetch_row<kVectors * kLanes>(r);

  F32 sum[kRows][kVectors];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sum[r][v] = F32{};

      // Counting shares ports with the multiplications: twice a turn.
#pragma GCC unroll 2
  for (size_t k = 0; k < depth; ++k, a += kRows, b += kVectors * kLanes) {
    F32 row[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      const F32 element = splat(a[r]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = fma(element, row[v], sum[r][v]);
    }
  }

  store_tile<kRows, kVectors>(sum, c, ldc, columns, *alpha, replace);
}

using TileFunction = void (*)(size_t, const float*, const float*, float*, size_t, size_t,
                              const float*, bool, const Later&);

// kTiles.of[vectors − 1][rows − 1]
struct Tiles {
  TileFunction of[kTileVectors][kTileRows];
};
template <size_t kVectors, size_t... kRowsLessOne>
constexpr void fill_tiles(Tiles& tiles, std::index_sequence<kRowsLessOne...>) {
  ((tiles.of[kVectors - 1][kRowsLessOne] = tile<kRowsLessOne + 1, kVectors>), ...);
}
template <size_t... kVectorsLessOne>
constexpr Tiles make_tiles(std::index_sequence<kVectorsLessOne...>) {
  Tiles tiles{};
  (fill_tiles<kVectorsLessOne + 1>(tiles, std::make_index_sequence<kTileRows>()), ...);
  return tiles;
}
constexpr Tiles kTiles = make_tiles(std::make_index_sequence<kTileVectors>());

}  // namespace
}  // namespace dsjs::DSJS_ISA
