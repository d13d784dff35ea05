// Products of one to kFewRows rows (a decoder's single token, the low ranks of adapters), for
// gemm_simd.cc: limited by reading B, which is read once and not packed.
#pragma once
#include <utility>

#include "gemm/epilogue.h"
#include "gemm/readers.h"

namespace dsjs::DSJS_ISA {
namespace {

inline void put(const Product& product, float* to, F32 sum, size_t count) {
  F32 value = splat(product.alpha) * sum;
  if (count == kLanes) {
    store(to, product.accumulate ? load(to) + value : value);
  } else {
    store_part(to, product.accumulate ? load_part(to, count) + value : value, count);
  }
}

// Sums that the registers hold beside a row of B's vectors and an element: so many for each row. At
// more rows than kFewRows too few would be left.
#if defined(DSJS_ISA_AVX512) || defined(DSJS_ISA_NEON)
constexpr size_t kSums = 28, kFewRows = 8;
#else
constexpr size_t kSums = 12, kFewRows = 6;
#endif
constexpr size_t few_vectors(size_t rows) {
  return rows == 1 ? 8 : rows == 2 ? 6 : rows <= 4 ? 4 : kSums / rows;
}
constexpr size_t few_columns(size_t rows) { return rows <= 4 ? 4 : kSums / rows; }

// Rows of op(B) are adjacent in memory: kVectors vectors of columns at a time, down all rows of B.
template <size_t kRows, size_t kVectors, class Reader>
void few_down(const Product& product, const float* x, const Reader& b, float* c, size_t column,
              size_t count) {
  const size_t whole = count / kLanes, rest = count % kLanes;
  F32 sum[kRows][kVectors] = {};
  for (size_t k = 0; k < product.K; ++k) {
    const size_t at = k * product.b_strides.row + column;
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      if (kVectors > 1 || whole > 0) {
        const F32 row = b.all(at + v * kLanes);
#pragma GCC unroll 8
        for (size_t r = 0; r < kRows; ++r)
          sum[r][v] = fma(splat(x[r * product.K + k]), row, sum[r][v]);
      } else {
        const F32 row = b.part(at, rest);
#pragma GCC unroll 8
        for (size_t r = 0; r < kRows; ++r)
          sum[r][v] = fma(splat(x[r * product.K + k]), row, sum[r][v]);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t v = 0; v < kVectors; ++v)
      put(product, c + r * product.ldc + column + v * kLanes, sum[r][v],
          kVectors > 1 || whole > 0 ? kLanes : rest);
}

template <size_t kRows, class Reader>
void few_rows_down(const Product& product, const float* x, const Reader& b, float* c,
                   Span columns) {
  constexpr size_t kVectors = few_vectors(kRows);
  size_t j = 0;
  for (; j + kVectors * kLanes <= columns.count; j += kVectors * kLanes)
    few_down<kRows, kVectors>(product, x, b, c, columns.begin + j, kVectors * kLanes);
  for (; j < columns.count; j += kLanes) {
    const size_t left = columns.count - j;
    few_down<kRows, 1>(product, x, b, c, columns.begin + j, left < kLanes ? left : kLanes);
  }
}

// Columns of op(B) are adjacent in memory: dot products of kColumns of them at a time.
template <size_t kRows, size_t kColumns, class Reader>
void few_dots(const Product& product, const float* x, const Reader& b, float* c, size_t column) {
  F32 sum[kRows][kColumns] = {};
  const size_t whole = product.K / kLanes * kLanes, rest = product.K - whole;
  for (size_t k = 0; k < whole; k += kLanes) {
    F32 lines[kColumns];
#pragma GCC unroll 5
    for (size_t j = 0; j < kColumns; ++j)
      lines[j] = b.all((column + j) * product.b_strides.column + k);
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const F32 values = load(x + r * product.K + k);
#pragma GCC unroll 5
      for (size_t j = 0; j < kColumns; ++j) sum[r][j] = fma(values, lines[j], sum[r][j]);
    }
  }
  if (rest > 0) {
    for (size_t j = 0; j < kColumns; ++j) {
      const F32 line = b.part((column + j) * product.b_strides.column + whole, rest);
      for (size_t r = 0; r < kRows; ++r)
        sum[r][j] = fma(load_part(x + r * product.K + whole, rest), line, sum[r][j]);
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t j = 0; j < kColumns; ++j) {
      float* to = c + r * product.ldc + column + j;
      const float value = product.alpha * dsjs::DSJS_ISA::sum(sum[r][j]);
      *to = product.accumulate ? *to + value : value;
    }
}

template <size_t kRows, class Reader>
void few_rows_across(const Product& product, const float* x, const Reader& b, float* c,
                     Span columns) {
  constexpr size_t kColumns = few_columns(kRows);
  size_t j = 0;
  for (; j + kColumns <= columns.count; j += kColumns)
    few_dots<kRows, kColumns>(product, x, b, c, columns.begin + j);
  for (; j < columns.count; ++j) few_dots<kRows, 1>(product, x, b, c, columns.begin + j);
}

template <size_t kRows>
void few_rows_of(const Product& product, const float* x, const void* b, float* c, Span columns) {
  with_reader_of_b(product, b, [&](auto read) {
    if (product.b_strides.column == 1)
      few_rows_down<kRows>(product, x, read, c, columns);
    else
      few_rows_across<kRows>(product, x, read, c, columns);
  });
}

using FewRowsFunction = void (*)(const Product&, const float*, const void*, float*, Span);

// kFewRowsOf.of[rows − 1]
struct FewRowsFunctions {
  FewRowsFunction of[kFewRows];
};
template <size_t... kRowsLessOne>
constexpr FewRowsFunctions make_few_rows(std::index_sequence<kRowsLessOne...>) {
  return {{few_rows_of<kRowsLessOne + 1>...}};
}
constexpr FewRowsFunctions kFewRowsOf = make_few_rows(std::make_index_sequence<kFewRows>());

void few_rows(const Product& product, const float* x, const void* b, float* c, Span columns) {
  if (product.M == 0) return;
  kFewRowsOf.of[product.M - 1](product, x, b, c, columns);
  float* const first = c + columns.begin;
  if (has_end(product)) finish(product, {first, product.ldc, 1, true}, first, product.M, columns);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
