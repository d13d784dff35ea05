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

struct DirectVectors {
  size_t of[kFewRows + 1];
};
constexpr DirectVectors make_direct_vectors() {
  DirectVectors vectors{};
  for (size_t rows = 0; rows <= kFewRows; ++rows) vectors.of[rows] = direct_vectors(rows);
  return vectors;
}
constexpr DirectVectors kDirectVectors = make_direct_vectors();

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

// Rows of B, `pitch` elements apart, as `read` gives them. So many terms are multiplied at a time.
template <class Reader>
struct RowsOfB {
  Reader read;
  size_t pitch;
  size_t terms;
};

// Terms at a time where B has so many rows of so many columns. Of a large B so few rows that a
// strip of them stays in the nearest cache until the last rows of A have read it, also where rows
// are a power of two apart, and that a processor fetches ahead along each. Measured: 16 to 128;
// more than 48 are slower where rows are such a power or 1,000 apart, fewer where there are many
// rows of A.
constexpr size_t terms_at_once(size_t rows, size_t columns) {
  constexpr size_t kTerms = 48, kLarge = size_t{1} << 18;
  return rows * columns < kLarge ? rows : kTerms;
}

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

// [0, total) in nearly equal pieces of at most `largest`, as parts_of and piece_of give them, with
// one division for all and none for a single one: divisions are a large part of a small product.
class Pieces {
 public:
  Pieces(size_t total, size_t largest) {
    if (total <= largest) {
      parts_ = 1;
      each_ = total;
      return;
    }
    parts_ = parts_of(total, largest);
    each_ = total / parts_;
    longer_ = total - each_ * parts_;
  }
  size_t longest() const { return each_ + (longer_ > 0); }
  // Calls fn(piece) for each of them in order.
  template <class Fn>
  void each(Fn fn) const {
    size_t begin = 0;
    for (size_t i = 0; i < parts_; ++i) {
      const Span piece{begin, each_ + (i < longer_)};
      fn(piece);
      begin += piece.count;
    }
  }

 private:
  size_t parts_, each_, longer_ = 0;
};

// rows × columns of C from `to` on, from column `column` of `b`.
template <class Reader>
void direct_tiles(size_t depth, const Lines& a, size_t rows, const RowsOfB<Reader>& b,
                  size_t column, size_t columns, const Target& to) {
  const size_t vectors = parts_of(columns, kLanes);
  const size_t most = rows > kFewRows && vectors <= 8 ? kDirectRows.of[vectors] : kFewRows;
  const Pieces row_parts(rows, most);
  const Pieces column_parts(vectors, kDirectVectors.of[row_parts.longest()]);
  Pieces(depth, b.terms).each([&](Span terms) {
    constexpr size_t kNear = 8192;
    const float* const term = a.at + terms.begin * a.strides.column;
    const bool replace = to.replace && terms.begin == 0;
    const auto tile = [&](Span part, Span span) {
      const size_t begin = span.begin * kLanes, left = columns - begin;
      const size_t width = left < span.count * kLanes ? left : span.count * kLanes;
      kDirect<Reader>.of[part.count - 1].of[span.count - 1][width % kLanes != 0](
          terms.count, {term + part.begin * a.strides.row, a.strides}, b,
          terms.begin * b.pitch + column + begin, width,
          {to.c + part.begin * to.ldc + begin, to.ldc, to.alpha, replace});
    };
    // Where the nearest cache holds all of B, C is written along its rows.
    if (terms.count * columns <= kNear)
      row_parts.each([&](Span part) { column_parts.each([&](Span span) { tile(part, span); }); });
    else
      column_parts.each([&](Span span) { row_parts.each([&](Span part) { tile(part, span); }); });
  });
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
