// Products of a tile of scores and the operands that they read, for attention_simd.cc. Operands are
// made of packed rows (tile_pack.h), in three ways: score rows and score keys are multiplied with
// each other, value rows with the scores. Score rows and value rows are the packed rows themselves.
#pragma once
#include "attention/score_tile.h"
#include "attention/tile_pack.h"
#include "attention/tile_product.h"

namespace dsjs::DSJS_ISA {
namespace {

// What a thread holds while it multiplies.
struct Multiplier {};

// Whether operands are copies of packed rows that lie elsewhere.
constexpr bool kCopiesRows = false;
// Score keys of so many rows lie behind those of the rows before.
constexpr size_t kKeyPanel = kLanes;

inline size_t score_rows_size(size_t rows, size_t Dp) { return rows * Dp; }
inline size_t score_keys_size(size_t rows, size_t Dp) { return padded(rows) * Dp; }
inline size_t value_rows_size(size_t rows, size_t Dp) { return rows * Dp; }

inline void put_score_rows(const float*, size_t, size_t, float*) {}
inline void put_score_keys(const float* rows, size_t count, size_t Dp, float* keys) {
  transpose_rows(rows, Dp, count, Dp, keys);
}
inline void put_value_rows(const float*, size_t, size_t, float*) {}

// out[rows, columns] = x·keysᵀ, x score rows and the tile's keys score keys. Columns that a strip
// does not see are left as they are.
inline void multiply_keys(const ScoreTile& t, const float* x, const float* panels, size_t D,
                          size_t Dp, float* out) {
  for_strips(t, t.rows, [&](size_t row, size_t count) {
    const size_t vectors = vectors_of(seen_columns(t, row + count - 1));
    multiply<false>({x + row * Dp, Dp, panels, kLanes, kLanes * Dp, out + row * kTileKeys,
                     kTileKeys, count, vectors, D},
                    Start::kZero);
  });
}

// out[rows, Dp] = factors∘out + tile·values, the value rows of the tile's keys.
inline void add_values(const ScoreTile& t, const float* tile, const float* values, size_t Dp,
                       float* out, Start start, const float* factors) {
  for_strips(t, t.rows, [&](size_t row, size_t count) {
    const size_t terms = seen_columns(t, row + count - 1);
    multiply<false>({tile + row * kTileKeys, kTileKeys, values, Dp, kLanes, out + row * Dp, Dp,
                     count, Dp / kLanes, terms},
                    start, factors ? factors + row : nullptr);
  });
}

// out[columns, Dp] += tileᵀ·rows, the value rows of the tile's queries.
inline void add_transposed(const ScoreTile& t, const float* tile, const float* rows, size_t Dp,
                           float* out) {
  for_strips(t, t.columns, [&](size_t column, size_t count) {
    const size_t first = first_row(t, column);
    multiply<true>({tile + first * kTileKeys + column, kTileKeys, rows + first * Dp, Dp, kLanes,
                    out + column * Dp, Dp, count, Dp / kLanes, t.rows - first},
                   Start::kAdd);
  });
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
