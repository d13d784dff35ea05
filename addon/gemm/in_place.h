// Whole products of which at least one operand is read where it lies, for gemm_simd.cc.
#pragma once
#include "gemm/dots.h"

namespace dsjs::DSJS_ISA {
namespace {

// `lines` lines of `count` adjacent elements, `pitch` apart, as `read` gives them, one behind the
// other.
template <class Reader>
void copy_lines(const Reader& read, size_t lines, size_t count, size_t pitch, float* out) {
  for (size_t line = 0; line < lines; ++line)
    for_vectors(count, [&](size_t i, auto, auto put) {
      const size_t at = line * pitch + i, left = count - i;
      put(out + line * count + i, left < kLanes ? read.part(at, left) : read.all(at));
    });
}

// The same of lines whose elements are `pitch` apart, and which are adjacent themselves.
template <class Reader>
void copy_across(const Reader& read, size_t lines, size_t count, size_t pitch, float* out) {
  for (size_t i = 0; i < count; i += kLanes)
    for (size_t line = 0; line < lines; line += kLanes) {
      const size_t wide = lines - line < kLanes ? lines - line : kLanes;
      const size_t high = count - i < kLanes ? count - i : kLanes;
      F32 square[kLanes];
      for (size_t k = 0; k < kLanes; ++k) {
        const size_t at = (i + k) * pitch + line;
        square[k] = k >= high ? F32{} : wide == kLanes ? read.all(at) : read.part(at, wide);
      }
      transpose(square);
      for (size_t k = 0; k < wide; ++k) store_part(out + (line + k) * count + i, square[k], high);
    }
}

// A copy of `lines` lines of `depth` elements in `out`. adjacent: with elements of a line adjacent,
// whatever the operand is like.
template <class Reader>
Lines copy_operand(const Reader& read, const MatrixStrides& strides, size_t lines, size_t depth,
                   bool adjacent, float* out) {
  if (!adjacent && strides.row == 1 && strides.column != 1) {
    copy_lines(read, depth, lines, strides.column, out);
    return {out, {1, lines}};
  }
  if (strides.column == 1) {
    copy_lines(read, lines, depth, strides.row, out);
  } else if (strides.row == 1) {
    copy_across(read, lines, depth, strides.column, out);
  } else {
    for (size_t r = 0; r < lines; ++r)
      for (size_t k = 0; k < depth; ++k)
        out[r * depth + k] = read.one(r * strides.row + k * strides.column)[0];
  }
  return {out, {depth, 1}};
}

Lines lines_of_a(const Product& product, const float* a, const float* a2, bool by_rows,
                 float* out) {
  const MatrixStrides& strides = product.a_strides;
  if (product.prologue == Prologue::kNone && (!by_rows || strides.column == 1)) return {a, strides};
  Lines copy{};
  with_reader_of_a(product, a, a2, [&](auto read) {
    copy = copy_operand(read, strides, product.M, product.K, by_rows, out);
  });
  return copy;
}

Lines lines_of_b(const Product& product, const void* b, bool by_columns, float* out) {
  const MatrixStrides strides{product.b_strides.column, product.b_strides.row};
  if (product.b_dtype == DType::kFloat32 && (!by_columns || strides.column == 1))
    return {static_cast<const float*>(b), strides};
  Lines copy{};
  with_reader_of_b(product, b, [&](auto read) {
    copy = copy_operand(read, strides, product.N, product.K, by_columns, out);
  });
  return copy;
}

// Dot products of all rows, a few at a time. Columns go in strips that a cache holds until the last
// rows have read them.
template <class Reader>
void dot_products(const Product& product, const Lines& a, const ColumnsOfB<Reader>& b, Span columns,
                  const Target& to) {
  constexpr size_t kStrip = 48;
  const size_t parts = parts_of(product.M, kFewRows);
  for (size_t j = 0; j < columns.count; j += kStrip) {
    const size_t left = columns.count - j, count = left < kStrip ? left : kStrip;
    for (size_t i = 0; i < parts; ++i) {
      const Span rows = piece_of(product.M, parts, i);
      kDots<Reader>.of[rows.count - 1](
          product.K, a.at + rows.begin * a.strides.row, a.strides.row, b, columns.begin + j, count,
          {to.c + rows.begin * to.ldc + j, to.ldc, to.alpha, to.replace});
    }
  }
}

// All rows beside columns of B, so many at a time that the second-level cache holds their sums.
template <class Reader>
void direct_products(const Product& product, const Lines& a, const RowsOfB<Reader>& b, Span columns,
                     const Target& to) {
  constexpr size_t kSums = size_t{1} << 16;
  const auto part = [&](size_t j, size_t count) {
    direct_tiles<Reader>(product.K, a, product.M, b, columns.begin + j, count,
                         {to.c + j, to.ldc, to.alpha, to.replace});
  };
  if (product.M * columns.count <= kSums) return part(0, columns.count);
  const size_t vectors = kSums / kLanes / product.M, most = (vectors > 0 ? vectors : 1) * kLanes;
  for (size_t j = 0; j < columns.count; j += most)
    part(j, columns.count - j < most ? columns.count - j : most);
}

void in_place(const Product& product, const Lines& a, const void* b, float* c, Span columns) {
  if (product.M == 0) return;
  float* const first = c + columns.begin;
  const Target to{first, product.ldc, product.alpha, !product.accumulate};
  const size_t terms = terms_at_once(product.K, product.N);
  with_reader_of_b(product, b, [&](auto read) {
    using Reader = decltype(read);
    if (product.b_strides.column == 1)
      direct_products<Reader>(product, a, {read, product.b_strides.row, terms}, columns, to);
    else
      dot_products<Reader>(product, a, {read, product.b_strides.column}, columns, to);
  });
  finish_in_place(product, first, product.M, columns);
}

// Rows and columns change places: `b` are the columns of op(B) as lines, A the vectors beside them.
// `sums`: N × rows.count floats.
void few_columns(const Product& product, const Lines& b, const float* a, float* c, Span rows,
                 float* sums) {
  const MatrixStrides& strides = product.a_strides;
  const Target to{sums, rows.count, 1, true};
  const ReadF32 read{a};
  if (strides.row == 1)
    direct_tiles<ReadF32>(product.K, b, product.N,
                          {read, strides.column, terms_at_once(product.K, product.M)}, rows.begin,
                          rows.count, to);
  else
    kDots<ReadF32>.of[product.N - 1](product.K, b.at, b.strides.row, {read, strides.row},
                                     rows.begin, rows.count, to);

  const F32 factor = splat(product.alpha);
  for (size_t i = 0; i < rows.count; i += kLanes)
    for (size_t j = 0; j < product.N; j += kLanes) {
      const size_t high = rows.count - i < kLanes ? rows.count - i : kLanes;
      const size_t wide = product.N - j < kLanes ? product.N - j : kLanes;
      F32 square[kLanes];
      for (size_t n = 0; n < kLanes; ++n) {
        const float* from = sums + (j + n) * rows.count + i;
        square[n] = n >= wide ? F32{} : high == kLanes ? load(from) : load_part(from, high);
      }
      transpose(square);
      for (size_t row = 0; row < high; ++row) {
        float* to = c + (rows.begin + i + row) * product.ldc + j;
        const F32 value = factor * square[row];
        store_part(to, product.accumulate ? load_part(to, wide) + value : value, wide);
      }
    }
  finish_in_place(product, c + rows.begin * product.ldc, rows.count, {0, product.N});
}

// As multiply, with A's first element of the block in `block.a`, not packed.
void multiply_rows(const Product& product, const Block& block) {
  const Lines a{block.a, product.a_strides};
  for (size_t j = 0; j < block.columns.count; j += kTileColumns) {
    const size_t left = block.columns.count - j;
    const size_t width = left < kTileColumns ? left : kTileColumns;
    float* c = block.c + block.rows.begin * product.ldc + block.columns.begin + j;
    // The last panel is filled up to whole vectors.
    const size_t pitch = parts_of(width, kLanes) * kLanes;
    direct_tiles<ReadF32>(block.depth, a, block.rows.count,
                          {{block.b + j * block.depth}, pitch, block.depth}, 0, width,
                          {c, product.ldc, product.alpha, block.replace});
    if (block.finish)
      finish_in_place(product, c, block.rows.count, {block.columns.begin + j, width});
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
