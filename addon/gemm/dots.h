// Dot products of one to kFewRows rows where columns of op(B) are adjacent in memory, for
// gemm_simd.cc: B is read once and not packed.
#pragma once
#include <utility>

#include "core/simd_transpose.h"
#include "gemm/direct.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t dot_columns(size_t rows) {
  const size_t fit = direct_vectors(rows);
  return fit < 5 ? fit : 5;
}

// Columns of B, `pitch` elements apart.
template <class Reader>
struct ColumnsOfB {
  Reader read;
  size_t pitch;
};

// totals[i] = sum(v[i]), bit for bit, kLanes of them at a time.
template <size_t kCount>
inline void sum_each(const F32* v, float* totals) {
  if constexpr (kCount < 4) {
    for (size_t i = 0; i < kCount; ++i) totals[i] = sum(v[i]);
  } else {
    for (size_t first = 0; first < kCount; first += kLanes) {
      F32 square[kLanes];
      for (size_t i = 0; i < kLanes; ++i) square[i] = first + i < kCount ? v[first + i] : F32{};
      store(totals + first, sums_of(square));
    }
  }
}

// kRows × kColumns dot products of rows of `x`, whose elements are adjacent, and columns of B from
// `column` on.
template <size_t kRows, size_t kColumns, class Reader>
void dot_tile(size_t depth, const float* x, size_t pitch, const ColumnsOfB<Reader>& b,
              size_t column, const Target& to) {
  F32 sum[kRows][kColumns];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t j = 0; j < kColumns; ++j) sum[r][j] = F32{};
  const size_t whole = depth / kLanes * kLanes, rest = depth - whole;
  for (size_t k = 0; k < whole; k += kLanes) {
    F32 lines[kColumns];
#pragma GCC unroll 4
    for (size_t j = 0; j < kColumns; ++j) lines[j] = b.read.all((column + j) * b.pitch + k);
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const F32 values = in_register(load(x + r * pitch + k));
#pragma GCC unroll 4
      for (size_t j = 0; j < kColumns; ++j) sum[r][j] = fma(values, lines[j], sum[r][j]);
    }
  }
  if (rest > 0) {
    for (size_t j = 0; j < kColumns; ++j) {
      const F32 line = b.read.part((column + j) * b.pitch + whole, rest);
      for (size_t r = 0; r < kRows; ++r)
        sum[r][j] = fma(load_part(x + r * pitch + whole, rest), line, sum[r][j]);
    }
  }
  float totals[parts_of(kRows * kColumns, kLanes) * kLanes];
  sum_each<kRows * kColumns>(sum[0], totals);
  for (size_t r = 0; r < kRows; ++r)
    for (size_t j = 0; j < kColumns; ++j) {
      float* at = to.c + r * to.ldc + j;
      const float value = to.alpha * totals[r * kColumns + j];
      *at = to.replace ? value : *at + value;
    }
}

template <size_t kRows, class Reader>
void dot_rows(size_t depth, const float* x, size_t pitch, const ColumnsOfB<Reader>& b,
              size_t column, size_t columns, const Target& to) {
  constexpr size_t kColumns = dot_columns(kRows);
  size_t j = 0;
  for (; j + kColumns <= columns; j += kColumns)
    dot_tile<kRows, kColumns>(depth, x, pitch, b, column + j,
                              {to.c + j, to.ldc, to.alpha, to.replace});
  for (; j < columns; ++j)
    dot_tile<kRows, 1>(depth, x, pitch, b, column + j, {to.c + j, to.ldc, to.alpha, to.replace});
}

template <class Reader>
using DotRows = void (*)(size_t, const float*, size_t, const ColumnsOfB<Reader>&, size_t, size_t,
                         const Target&);

// of[rows − 1]
template <class Reader>
struct DotTable {
  DotRows<Reader> of[kFewRows];
};
template <class Reader, size_t... kRowsLessOne>
constexpr DotTable<Reader> make_dots(std::index_sequence<kRowsLessOne...>) {
  return {{dot_rows<kRowsLessOne + 1, Reader>...}};
}
template <class Reader>
constexpr DotTable<Reader> kDots = make_dots<Reader>(std::make_index_sequence<kFewRows>());

}  // namespace
}  // namespace dsjs::DSJS_ISA
