// How a product is cut into blocks and shared among threads.
#pragma once
#include "gemm/gemm_kernels.h"

namespace dsjs {

enum class Way {
  kFewRows,  // straight from B, columns shared among workers
  kBatches,  // whole products shared among workers
  kBlocks,   // one product after the other, its blocks shared among workers
};

struct Plan {
  Way way;
  size_t workers;
  size_t batches;
  // Parts of the sum, and of the columns (in units of the tile's): what is packed of B at a time.
  size_t depth_parts;
  size_t column_parts;
  // What is packed of A at a time, and into how many tasks each of these products is cut.
  size_t row_blocks;
  size_t column_groups;
  // One panel of columns and no prologue: A is not packed.
  bool narrow;
  // Floats: of one worker's packed rows of A, of the packed part of B.
  size_t packed_a;
  size_t packed_b;
};

// Depends on its arguments alone. `depth_parts` depends on K alone: it decides the order of sums.
Plan plan_product(const Product& product, size_t threads, const GemmKernels& kernels);

}  // namespace dsjs
