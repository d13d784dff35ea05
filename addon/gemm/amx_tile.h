// Products of a panel of A and a panel of B, packed by amx_pack.h, for gemm_amx.cc.
#pragma once
#include "gemm/amx_pack.h"
#include "gemm/epilogue.h"

namespace dsjs::DSJS_ISA {
namespace {

// What LDTILECFG reads: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile registers of this thread, while it lives. Given back, the system need not save them.
class Tiles {
 public:
  Tiles() {
    static constexpr TileShapes kShapes;
    _tile_loadconfig(&kShapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Where the panels of a product begin, behind their headers.
struct Panels {
  const float* a;
  const float* b;
};

// out[r][c] = or, with kAdd, += the product of up to 32 rows of A and 32 columns of B: kRowTiles ×
// kColumnTiles tiles of 16 × 16, the only ones that the panels use. Rows of `out` are `pitch`
// floats apart. Tile registers: 0 to 3 sums, 4 and 5 a part of A, 6 and 7 a part of B. Pairs of
// parts follow each other so that each step changes one of the two; the small ones are added first.
// Each step fetches its share of the next block ahead, at the end that of the panels of `next`, and
// of the `rows` rows that come after the product.
template <size_t kRowTiles, size_t kColumnTiles, size_t kPartsOfB, bool kAdd = false>
void tile_product(size_t blocks, Panels now, Panels next, float* out, size_t pitch,
                  const Later& later, size_t rows) {
  constexpr size_t kRow = 64;  // bytes
  constexpr size_t kBlockOfA = kParts * 2 * kTileFloats, kBlockOfB = kPartsOfB * 2 * kTileFloats;
  constexpr size_t kSteps = kPartsOfB > 1 ? 6 : 3;
  const auto load_a = [&](size_t part) {
    const float* tile = now.a + part * 2 * kTileFloats;
    _tile_loadd(4, tile, kRow);
    if constexpr (kRowTiles > 1) _tile_loadd(5, tile + kTileFloats, kRow);
  };
  const auto load_b = [&](size_t part) {
    const float* tile = now.b + part * 2 * kTileFloats;
    _tile_loadd(6, tile, kRow);
    if constexpr (kColumnTiles > 1) _tile_loadd(7, tile + kTileFloats, kRow);
  };
  const size_t rows_a_step = parts_of(rows, blocks * kSteps);
  size_t row = 0;
  Panels ahead;
  const auto multiply = [&](size_t step) {
    for (size_t i = 0; i < rows_a_step && row < rows; ++i, ++row)
      later.fetch_row<kColumnTiles * kTileLines>(row);
#pragma GCC unroll 32
    for (size_t i = 0; i < kBlockOfA / kSteps; i += kLine)
      __builtin_prefetch(ahead.a + step * (kBlockOfA / kSteps) + i);
#pragma GCC unroll 32
    for (size_t i = 0; i < kBlockOfB / kSteps; i += kLine)
      __builtin_prefetch(ahead.b + step * (kBlockOfB / kSteps) + i);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kColumnTiles > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kRowTiles > 1) _tile_dpbf16ps(2, 5, 6);
    if constexpr (kRowTiles > 1 && kColumnTiles > 1) _tile_dpbf16ps(3, 5, 7);
  };
  const size_t bytes = pitch * sizeof(float);
  if constexpr (kAdd) {
    _tile_loadd(0, out, bytes);
    if constexpr (kColumnTiles > 1) _tile_loadd(1, out + kTileLines, bytes);
    if constexpr (kRowTiles > 1) {
      _tile_loadd(2, out + kTileLines * pitch, bytes);
      if constexpr (kColumnTiles > 1) _tile_loadd(3, out + kTileLines * pitch + kTileLines, bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (size_t i = 0; i < blocks; ++i) {
    ahead = i + 1 < blocks ? Panels{now.a + kBlockOfA, now.b + kBlockOfB} : next;
    load_a(2);
    load_b(0);
    multiply(0);
    load_a(1);
    multiply(1);
    if constexpr (kPartsOfB > 1) {
      load_b(1);
      multiply(2);
      load_a(0);
      multiply(3);
      load_b(2);
      multiply(4);
      load_b(0);
      multiply(5);
    } else {
      load_a(0);
      multiply(2);
    }
    now = ahead;
  }
  _tile_stored(0, out, bytes);
  if constexpr (kColumnTiles > 1) _tile_stored(1, out + kTileLines, bytes);
  if constexpr (kRowTiles > 1) {
    _tile_stored(2, out + kTileLines * pitch, bytes);
    if constexpr (kColumnTiles > 1) _tile_stored(3, out + kTileLines * pitch + kTileLines, bytes);
  }
}

// Element (line, term) of a panel of A, whose tiles have lines in their rows; the first of kParts.
inline float element_of_a(const float* panel, size_t line, size_t term) {
  const size_t within = term % kBlockTerms, pair_of = within % kTileLines;
  const float* tile = panel + kHeaderFloats + term / kBlockTerms * kParts * 2 * kTileFloats +
                      line / kTileLines * kTileFloats;
  return unpack<kParts>(tile + line % kTileLines * kLanes, within >= kTileLines)[pair_of];
}

// The columns of term `term` of half a panel of B.
template <size_t kPartsOfB>
inline F32 columns_of_b(const float* panel, size_t half, size_t term) {
  const size_t within = term % kBlockTerms;
  const float* tile =
      panel + kHeaderFloats + term / kBlockTerms * kPartsOfB * 2 * kTileFloats + half * kTileFloats;
  return unpack<kPartsOfB>(tile + within % kTileLines * kLanes, within >= kTileLines);
}

// Panels with their headers; those of B are used from a term on.
struct WholePanels {
  const float* a;
  const float* b;
  size_t first_term_of_b;
};

// Rows and columns of `out` that hold what is not finite, again and as IEEE 754 says: parts of an
// infinity do not add up to one (∞·0 is NaN). Only their elements change.
template <size_t kPartsOfB>
void multiply_odd_lines(size_t depth, const WholePanels& panels, size_t rows, float* out,
                        size_t pitch) {
  const uint32_t odd_rows = odd_lines(panels.a), odd_columns = odd_lines(panels.b);
  for (size_t r = 0; r < rows; ++r)
    for (size_t half = 0; half < 2; ++half) {
      const auto lanes = static_cast<__mmask16>(
          odd_rows >> r & 1 ? 0xffff : odd_columns >> (half * kTileLines) & 0xffff);
      if (lanes == 0) continue;
      F32 sum{};
      for (size_t term = 0; term < depth; ++term)
        sum = fma(splat(element_of_a(panels.a, r, term)),
                  columns_of_b<kPartsOfB>(panels.b, half, panels.first_term_of_b + term), sum);
      _mm512_mask_storeu_ps(out + r * pitch + half * kTileLines, lanes, __m512(sum));
    }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
