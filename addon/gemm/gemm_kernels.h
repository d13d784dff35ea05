// What one instruction set brings to a product: its tile, packing, the loops over packed blocks.
#pragma once
#include <cstddef>

#include "gemm/gemm.h"

namespace dsjs {

struct Span {
  size_t begin;
  size_t count;
};

namespace {

// Piece i of `parts` nearly equal pieces of [0, total). Internal to each file that includes this,
// as everything is that is compiled for several instruction sets.
inline Span piece_of(size_t total, size_t parts, size_t i) {
  if (parts == 1) return {0, total};  // divisions are a large part of a small product
  const size_t each = total / parts, longer = total % parts;
  return {i * each + (i < longer ? i : longer), each + (i < longer ? 1 : 0)};
}
inline constexpr size_t parts_of(size_t total, size_t largest) {
  return (total + largest - 1) / largest;
}
// Whether anything is done to sums besides alpha.
inline bool has_end(const Product& product) {
  return product.epilogue != Epilogue::kNone || product.bias || product.residual;
}

}  // namespace

// Part of C, rows × columns, as a product of packed blocks.
struct Block {
  Span rows;
  Span columns;
  size_t depth;
  const float* a;
  const float* b;
  float* c;      // the first element of this product of the batch
  bool replace;  // instead of adding to what C holds
  bool finish;   // the sum is complete: the epilogue follows
};

// Lines of an operand where it lies: element k of line r at r · strides.row + k · strides.column.
struct Lines {
  const float* at;
  MatrixStrides strides;
};

// What is packed at a time, at most: terms of the sum, rows of A and columns of B.
struct Blocking {
  size_t depth;
  size_t rows;
  size_t columns;
};

struct GemmKernels {
  // A tile of C: rows × columns.
  size_t tile_rows;
  size_t tile_columns;
  // Blocks of rows begin at a multiple of this.
  size_t row_unit;
  // Over operands where they lie a tile has at most so many rows, and a vector so many columns
  // (plan.cc says which products are computed so). 0: these kernels pack whatever they read.
  size_t few_rows;
  size_t few_columns;
  Blocking blocking;

  // Floats that so many rows of A or columns of B take when packed, `depth` terms each.
  size_t (*packed_a)(const Product& product, size_t rows, size_t depth);
  size_t (*packed_b)(const Product& product, size_t columns, size_t depth);
  // Rows and terms of op(p(A)) into panels of at most tile_rows rows. `a` and `a2` are the first
  // elements of this product of the batch.
  void (*pack_a)(const Product& product, const float* a, const float* a2, Span rows, Span depth,
                 float* packed);
  // Columns and terms of op(q(B)) into panels of tile_columns. `columns` begins and ends at a
  // panel, or ends at the last column.
  void (*pack_b)(const Product& product, const void* b, const float* b2, Span columns, Span depth,
                 float* packed);
  // sums[j] = or += the sum of packed column j.
  void (*sum_columns)(const Product& product, const float* packed, size_t columns, size_t depth,
                      bool add, float* sums);
  // C = or += alpha · a · b, and the epilogue.
  void (*multiply)(const Product& product, const Block& block);
  // The rest is null where few_rows is 0.
  //
  // As multiply; `a` is A's first element of the block, not packed, and there is no prologue.
  void (*multiply_rows)(const Product& product, const Block& block);
  // p(A) where it lies, or a copy in `out`, M · K floats. by_rows: with elements of a row adjacent.
  Lines (*lines_of_a)(const Product& product, const float* a, const float* a2, bool by_rows,
                      float* out);
  // The columns of op(B) as lines, fp32: where they lie, or a copy in `out`, K · N floats.
  // by_columns: with elements of a column adjacent.
  Lines (*lines_of_b)(const Product& product, const void* b, bool by_columns, float* out);
  // Columns of a whole product, B where it lies, without prologue. Its rows are adjacent in memory,
  // or its columns; then elements of a row of `a` are adjacent.
  void (*in_place)(const Product& product, const Lines& a, const void* b, float* c, Span columns);
  // Rows of a whole product of few columns (plan.cc), A where it lies, without prologue. `b`:
  // the columns of op(B) as lines; unless A's rows are adjacent, so are elements of a line. `sums`:
  // N · rows.count floats of scratch memory.
  void (*few_columns_of)(const Product& product, const Lines& b, const float* a, float* c,
                         Span rows, float* sums);
  // The end of rows × columns of C, from `c` on, that hold their sums. Never null.
  void (*finish)(const Product& product, float* c, size_t rows, Span columns);
};

// The fastest of this instruction set and the lesser ones it stands for, by the product's sizes.
const GemmKernels& gemm_kernels(const Product& product, Isa isa);
// Those of the set itself for any product that they can do, also where others are faster.
const GemmKernels& own_gemm_kernels(const Product& product, Isa isa);

// As in gemm.h, with the same kernels in both.
size_t gemm_scratch(const Product& product, size_t threads, const GemmKernels& kernels);
void gemm(const Product& product, Parallel& parallel, float* scratch, const GemmKernels& kernels);

}  // namespace dsjs
