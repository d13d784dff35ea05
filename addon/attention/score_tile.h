// A tile of the scores: where it lies, and how much of it a row sees; for attention_simd.cc.
#pragma once
#include "attention/attention_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

// A tile has at most so many queries and keys; its rows are kTileKeys floats apart.
constexpr size_t kTileQueries = kDenseQueries;
constexpr size_t kTileKeys = kDenseKeys;
// Tiles that the diagonal crosses are worked on in strips of so many rows (of columns where they
// are transposed), each with its own end, a multiple of so many columns.
#if defined(DSJS_ISA_AMX)
constexpr size_t kStrip = 32, kStripColumns = 32;
#else
constexpr size_t kStrip = 12, kStripColumns = kLanes;
#endif

struct ScoreTile {
  size_t sample, head;
  size_t query, rows;
  // Columns fill whole vectors; those past the last key are hidden.
  size_t key, columns;
  // Row r sees column c when c ≤ r + diagonal.
  ptrdiff_t diagonal;
};

inline ScoreTile score_tile(const Attention& a, size_t sample, size_t head, size_t query,
                            size_t rows, size_t key, size_t columns) {
  const auto all = static_cast<ptrdiff_t>(kTileKeys);
  const auto shift = static_cast<ptrdiff_t>(query + a.Sk) - static_cast<ptrdiff_t>(a.Sq + key);
  return {sample, head, query, rows, key, columns, a.causal && shift < all ? shift : all};
}

inline bool crosses_diagonal(const ScoreTile& t) {
  return t.diagonal + 1 < static_cast<ptrdiff_t>(t.columns);
}
// How many columns a row sees.
inline size_t seen_columns(const ScoreTile& t, size_t row) {
  const ptrdiff_t seen = static_cast<ptrdiff_t>(row) + t.diagonal + 1;
  return seen <= 0                               ? 0
         : static_cast<size_t>(seen) < t.columns ? static_cast<size_t>(seen)
                                                 : t.columns;
}
// The first row that sees a column.
inline size_t first_row(const ScoreTile& t, size_t column) {
  const ptrdiff_t row = static_cast<ptrdiff_t>(column) - t.diagonal;
  return row <= 0 ? 0 : static_cast<size_t>(row) < t.rows ? static_cast<size_t>(row) : t.rows;
}

// So many columns as strips count them.
inline size_t strip_columns(size_t count) {
  return (count + kStripColumns - 1) / kStripColumns * kStripColumns;
}

// A tile of so few columns has none to leave out.
inline bool has_strips(const ScoreTile& t) {
  return crosses_diagonal(t) && t.columns > kStripColumns;
}

// How many columns of a row are worked on: those that its strip sees.
inline size_t strip_width(const ScoreTile& t, size_t row) {
  if (!has_strips(t)) return strip_columns(t.columns);
  const size_t end = (row / kStrip + 1) * kStrip;
  return strip_columns(seen_columns(t, (end < t.rows ? end : t.rows) - 1));
}

// Calls fn(begin, count) for strips of [0, total); one strip when no diagonal crosses the tile.
template <class Fn>
inline void for_strips(const ScoreTile& t, size_t total, Fn fn) {
  const size_t strip = has_strips(t) ? kStrip : total;
  for (size_t begin = 0; begin < total; begin += strip)
    fn(begin, total - begin < strip ? total - begin : strip);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
