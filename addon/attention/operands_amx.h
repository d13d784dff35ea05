// As operands.h, on tile registers: fp32 as three bf16, six products for one (gemm/amx_pack.h).
// Score rows are packed as an operand A, score keys and value rows as an operand B; a tile of
// scores becomes an operand A when it is multiplied, a panel of 32 lines at a time.
#pragma once
#include "attention/score_tile.h"
#include "attention/tile_pack.h"
#include "attention/tile_product.h"
#include "gemm/amx_tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// Held from product to product: taking the registers for each was 2% of forward at heads of 64.
using Multiplier = Tiles;

constexpr bool kCopiesRows = true;
constexpr size_t kKeyPanel = kPanelLines;
static_assert(kStrip == kPanelLines && kStripColumns == kBlockTerms);

inline size_t score_rows_size(size_t rows, size_t Dp) {
  return parts_of(rows, kPanelLines) * panel_floats(Dp, kParts);
}
inline size_t score_keys_size(size_t rows, size_t Dp) { return score_rows_size(rows, Dp); }
inline size_t value_rows_size(size_t rows, size_t Dp) {
  return parts_of(Dp, kPanelLines) * panel_floats(rows, kParts);
}

inline void put_score_rows(const float* rows, size_t count, size_t Dp, float* out) {
  pack_parts<false, kParts>({0, Dp, 1, count, Dp}, ReadF32{rows}, out);
}
inline void put_score_keys(const float* rows, size_t count, size_t Dp, float* out) {
  pack_parts<true, kParts>({0, Dp, 1, count, Dp}, ReadF32{rows}, out);
}
inline void put_value_rows(const float* rows, size_t count, size_t Dp, float* out) {
  pack_parts<true, kParts>({0, 1, Dp, Dp, count}, ReadF32{rows}, out);
}

// An operand B: panels of so many terms, used from a block of terms on.
struct PanelsOfB {
  const float* at;
  size_t terms;
  size_t first_block;
};

using PanelProduct = decltype(&tile_product<1, 1, kParts>);
template <bool kAdd>
constexpr PanelProduct kPanelProducts[2][2] = {
    {tile_product<1, 1, kParts, kAdd>, tile_product<1, 2, kParts, kAdd>},
    {tile_product<2, 1, kParts, kAdd>, tile_product<2, 2, kParts, kAdd>}};

// out[rows, columns] = or += a·b for a panel `a` of at most 32 rows and `terms` terms.
inline void multiply_panel(const float* a, size_t rows, size_t terms, const PanelsOfB& b,
                           size_t columns, float* out, size_t pitch, Start start,
                           const float* factors) {
  constexpr size_t kBlockFloats = kParts * 2 * kTileFloats;
  const size_t b_pitch = panel_floats(b.terms, kParts), blocks = parts_of(terms, kBlockTerms);
  const bool add = start != Start::kZero, whole = rows % kTileLines == 0;
  alignas(64) float sums[kPanelLines * kPanelLines];
  if (start == Start::kScale)
    for (size_t r = 0; r < rows; ++r) {
      const F32 factor = splat(factors[r]);
      for (size_t i = 0; i < columns; i += kLanes) {
        float* c = out + r * pitch + i;
        store(c, factor * load(c));
      }
    }
  const auto panels_at = [&](size_t column) {
    return Panels{a + kHeaderFloats, b.at + column / kPanelLines * b_pitch + kHeaderFloats +
                                         b.first_block * kBlockFloats};
  };
  for (size_t column = 0; column < columns; column += kPanelLines) {
    const size_t next = column + kPanelLines;
    const size_t width = columns < next ? columns - column : kPanelLines;
    const float* b_panel = b.at + column / kPanelLines * b_pitch;
    const bool odd = (odd_lines(a) | odd_lines(b_panel)) != 0;
    const size_t row_tiles = rows > kTileLines, column_tiles = width > kTileLines;
    const Panels now = panels_at(column), then = panels_at(next < columns ? next : column);
    // What is replaced has room for whole panels of rows; what is added to need not.
    if (!odd && (whole || !add)) {
      const auto run = add ? kPanelProducts<true>[row_tiles][column_tiles]
                           : kPanelProducts<false>[row_tiles][column_tiles];
      run(blocks, now, then, out + column, pitch, Later{}, 0);
      continue;
    }
    kPanelProducts<false>[row_tiles][column_tiles](blocks, now, then, sums, kPanelLines, Later{},
                                                   0);
    if (odd)
      multiply_odd_lines<kParts>(terms, {a, b_panel, b.first_block * kBlockTerms}, rows, sums,
                                 kPanelLines);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < width; i += kLanes) {
        float* c = out + r * pitch + column + i;
        const F32 sum = load(sums + r * kPanelLines + i);
        store(c, add ? load(c) + sum : sum);
      }
  }
}

// out[rows, columns] = or += nothing.
inline void multiply_nothing(size_t rows, size_t columns, float* out, Start start,
                             const float* factors) {
  for (size_t r = 0; r < rows && start != Start::kAdd; ++r)
    for (size_t i = r * columns; i < (r + 1) * columns; i += kLanes)
      store(out + i, start == Start::kZero ? F32{} : splat(factors[r]) * load(out + i));
}

// Calls fn(begin, count) for panels of [0, total).
template <class Fn>
inline void for_panels(size_t total, Fn fn) {
  for (size_t begin = 0; begin < total; begin += kPanelLines)
    fn(begin, total - begin < kPanelLines ? total - begin : kPanelLines);
}

inline void multiply_keys(const ScoreTile& t, const float* x, const float* keys, size_t, size_t Dp,
                          float* out) {
  for_panels(t.rows, [&](size_t row, size_t count) {
    multiply_panel(x + score_rows_size(row, Dp), count, Dp, {keys, Dp, 0}, strip_width(t, row),
                   out + row * kTileKeys, kTileKeys, Start::kZero, nullptr);
  });
}

inline void add_values(const ScoreTile& t, const float* tile, const float* values, size_t Dp,
                       float* out, Start start, const float* factors) {
  alignas(64) float packed[kHeaderFloats + kTileKeys * kParts * kPanelLines / 2];
  for_panels(t.rows, [&](size_t row, size_t count) {
    const size_t terms = strip_width(t, row);
    const float* own = factors ? factors + row : nullptr;
    if (terms == 0) return multiply_nothing(count, Dp, out + row * Dp, start, own);
    pack_parts<false, kParts>({row * kTileKeys, kTileKeys, 1, count, terms}, ReadF32{tile}, packed);
    multiply_panel(packed, count, terms, {values, t.columns, 0}, Dp, out + row * Dp, Dp, start,
                   own);
  });
}

inline void add_transposed(const ScoreTile& t, const float* tile, const float* rows, size_t Dp,
                           float* out) {
  alignas(64) float packed[kHeaderFloats + kTileQueries * kParts * kPanelLines / 2];
  for_panels(t.columns, [&](size_t column, size_t count) {
    const size_t block = first_row(t, column) / kBlockTerms, first = block * kBlockTerms;
    if (first >= t.rows) return;
    pack_parts<false, kParts>({first * kTileKeys + column, 1, kTileKeys, count, t.rows - first},
                              ReadF32{tile}, packed);
    multiply_panel(packed, count, t.rows - first, {rows, t.rows, block}, Dp, out + column * Dp, Dp,
                   Start::kAdd, nullptr);
  });
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
