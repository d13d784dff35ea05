// Tiles over operands where they lie, for gemm_simd.cc: small products, of which a copy would be a
// large part, and those that read an operand once (a decoder's single token, the low ranks of
// adapters).
#pragma once
#include <utility>

#include "gemm/readers.h"
#include "gemm/tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// Rows: an address for each is what the general registers hold. Registers: of vectors.
#if defined(DSJS_ISA_AVX512) || defined(DSJS_ISA_NEON)
constexpr size_t kFewRows = 8, kRegisters = 32;
#else
constexpr size_t kFewRows = 6, kRegisters = 16;
#endif

// Vectors of a tile of so many rows: its sums, a row of B and an element of A fill the registers.
constexpr size_t direct_vectors(size_t rows) {
  const size_t fit = (kRegisters - 1) / (rows + 1);
  return fit < 8 ? fit : 8;
}

// Rows of a tile where there are more than kFewRows of so many vectors: as many as leave the fewest
// tiles, each of which has a beginning and an end.
constexpr size_t direct_rows(size_t vectors) {
  size_t best = kFewRows;
  const auto tiles = [&](size_t rows) { return parts_of(vectors, direct_vectors(rows)); };
  for (size_t rows = kFewRows; rows > 2; --rows)
    if (tiles(rows) * best < tiles(best) * rows) best = rows;
  return best;
}
struct DirectRows {
  size_t of[9];
};
constexpr DirectRows make_direct_rows() {
  DirectRows rows{};
  for (size_t vectors = 1; vectors < 9; ++vectors) rows.of[vectors] = direct_rows(vectors);
  return rows;
}
constexpr DirectRows kDirectRows = make_direct_rows();

// Rows of B, `pitch` elements apart, as `read` gives them.
template <class Reader>
struct RowsOfB {
  Reader read;
  size_t pitch;
};

// Where a tile's product goes: C = (replace ? 0 : C) + alpha · product.
struct Target {
  float* c;
  size_t ldc;
  float alpha;
  bool replace;
};

// As tile (tile.h), of element (r, k) of `a` and columns [column, column + columns) of `b`. kPart:
// the columns fill only part of the last vector.
template <size_t kRows, size_t kVectors, bool kPart, class Reader>
void direct_tile(size_t depth, const Lines& a, const RowsOfB<Reader>& b, size_t column,
                 size_t columns, const Target& to) {
  const float* line[kRows];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) line[r] = a.at + r * a.strides.row;
  F32 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) sum[r][v] = F32{};

  const size_t rest = columns - (kVectors - 1) * kLanes;
  size_t at = column;
  for (size_t k = 0, at_a = 0; k < depth; ++k, at_a += a.strides.column, at += b.pitch) {
    F32 row[kVectors];
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      if constexpr (kPart)
        row[v] =
            v + 1 < kVectors ? b.read.all(at + v * kLanes) : b.read.part(at + v * kLanes, rest);
      else
        row[v] = b.read.all(at + v * kLanes);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const F32 element = splat(line[r][at_a]);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = fma(element, row[v], sum[r][v]);
    }
  }
  store_tile<kRows, kVectors>(sum, to.c, to.ldc, columns, to.alpha, to.replace);
}

template <class Reader>
using DirectTile = void (*)(size_t, const Lines&, const RowsOfB<Reader>&, size_t, size_t,
                            const Target&);

// of[vectors − 1][part]
template <class Reader>
struct DirectTiles {
  DirectTile<Reader> of[8][2];
};
template <class Reader, size_t kRows, size_t... kVectorsLessOne>
constexpr DirectTiles<Reader> direct_tiles_of(std::index_sequence<kVectorsLessOne...>) {
  return {{{direct_tile<kRows, kVectorsLessOne + 1, false, Reader>,
            direct_tile<kRows, kVectorsLessOne + 1, true, Reader>}...}};
}

// of[rows − 1]
template <class Reader>
struct DirectTable {
  DirectTiles<Reader> of[kFewRows];
};
template <class Reader, size_t... kRowsLessOne>
constexpr DirectTable<Reader> make_direct(std::index_sequence<kRowsLessOne...>) {
  return {{direct_tiles_of<Reader, kRowsLessOne + 1>(
      std::make_index_sequence<direct_vectors(kRowsLessOne + 1)>())...}};
}
template <class Reader>
constexpr DirectTable<Reader> kDirect = make_direct<Reader>(std::make_index_sequence<kFewRows>());

// rows × columns of C from `to` on, from column `column` of `b`.
template <class Reader>
void direct_tiles(size_t depth, const Lines& a, size_t rows, const RowsOfB<Reader>& b,
                  size_t column, size_t columns, const Target& to) {
  const size_t vectors = parts_of(columns, kLanes);
  const size_t most = rows > kFewRows && vectors <= 8 ? kDirectRows.of[vectors] : kFewRows;
  const size_t row_parts = parts_of(rows, most);
  const size_t widest = direct_vectors(parts_of(rows, row_parts));
  const size_t column_parts = parts_of(vectors, widest);
  for (size_t j = 0; j < column_parts; ++j) {
    const Span span = piece_of(vectors, column_parts, j);
    const size_t begin = span.begin * kLanes, left = columns - begin;
    const size_t width = left < span.count * kLanes ? left : span.count * kLanes;
    for (size_t i = 0; i < row_parts; ++i) {
      const Span part = piece_of(rows, row_parts, i);
      const Lines lines{a.at + part.begin * a.strides.row, a.strides};
      kDirect<Reader>.of[part.count - 1].of[span.count - 1][width % kLanes != 0](
          depth, lines, b, column + begin, width,
          {to.c + part.begin * to.ldc + begin, to.ldc, to.alpha, to.replace});
    }
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
