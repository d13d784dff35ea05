// How a product is cut into blocks and shared among threads.
#pragma once
#include "gemm/gemm_kernels.h"

namespace dsjs {

// How one product of a batch is computed.
enum class Way {
  kInPlace,     // operands where they lie, columns shared among workers
  kFewColumns,  // the same with rows and columns in each other's places
  kBlocks,      // packed, its blocks shared among workers
};

struct Plan {
  Way way;
  // Whole products are shared among workers: each computes its own alone.
  bool share_products;
  size_t workers;
  size_t batches;
  // Floats: of one worker's packed rows of A, of the packed part of B. kInPlace: of a copy of p(A),
  // of nothing. kFewColumns: of one worker's sums, of a copy of B.
  size_t packed_a;
  size_t packed_b;
  // How many parts of B are packed at the same time.
  size_t buffers;

  // The rest is for kBlocks.
  //
  // Parts of the sum, and of the columns (in units of the tile's): what is packed of B at a time.
  size_t depth_parts;
  size_t column_parts;
  // What is packed of A at a time, and into how many tasks each of these products is cut.
  size_t row_blocks;
  size_t column_groups;
  // A is read where it lies.
  bool rows_in_place;
};

// Rows at a time of a product of few columns.
constexpr size_t kFewColumnsPiece = 1024;

// Depends on its arguments alone. `way` and `depth_parts` depend on sizes and strides alone: they
// decide the order of sums.
Plan plan_product(const Product& product, size_t threads, const GemmKernels& kernels);

}  // namespace dsjs
