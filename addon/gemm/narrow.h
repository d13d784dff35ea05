// Products of one panel of columns, for gemm_simd.cc: a packed A would be read once, so it is read
// where it lies (the low ranks of adapters).
#pragma once
#include "gemm/tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// An address for each row is what the general registers hold.
constexpr size_t kNarrowRows = kTileRows < 8 ? kTileRows : 8;

// As tile, with element (r, k) of A at a + r · strides.row + k · strides.column.
template <size_t kRows, size_t kVectors>
void narrow_tile(size_t depth, const float* a, MatrixStrides strides, const float* b, float* c,
                 size_t ldc, size_t columns, float alpha, bool replace) {
  const float* line[kRows];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) line[r] = a + r * strides.row;
  F32 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sum[r][v] = F32{};

  for (size_t k = 0; k < depth; ++k, b += kVectors * kLanes) {
    F32 row[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const F32 element = splat(line[r][k * strides.column]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = fma(element, row[v], sum[r][v]);
    }
  }
  store_tile<kRows, kVectors>(sum, c, ldc, columns, alpha, replace);
}

using NarrowFunction = void (*)(size_t, const float*, MatrixStrides, const float*, float*, size_t,
                                size_t, float, bool);

// kNarrow.of[vectors − 1][rows − 1]
struct NarrowTiles {
  NarrowFunction of[kTileVectors][kNarrowRows];
};
template <size_t kVectors, size_t... kRowsLessOne>
constexpr void fill_narrow(NarrowTiles& tiles, std::index_sequence<kRowsLessOne...>) {
  ((tiles.of[kVectors - 1][kRowsLessOne] = narrow_tile<kRowsLessOne + 1, kVectors>), ...);
}
template <size_t... kVectorsLessOne>
constexpr NarrowTiles make_narrow(std::index_sequence<kVectorsLessOne...>) {
  NarrowTiles tiles{};
  (fill_narrow<kVectorsLessOne + 1>(tiles, std::make_index_sequence<kNarrowRows>()), ...);
  return tiles;
}
constexpr NarrowTiles kNarrow = make_narrow(std::make_index_sequence<kTileVectors>());

}  // namespace
}  // namespace dsjs::DSJS_ISA
