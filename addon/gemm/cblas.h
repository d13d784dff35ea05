// Products by a library with the CBLAS interface: Accelerate on macOS, which alone has instructions
// for that processor's matrix units; elsewhere one that the build was asked to use (DSJS_CBLAS in
// CMakeLists.txt). Its threads and the order of its sums are its own.
#pragma once
#include "gemm/gemm.h"

namespace dsjs {

// Large, in fp32, with rows or columns adjacent, and nothing done to operands as they are read. Its
// end is no hindrance.
bool pays_in_cblas(const Product& product);

// Needs no scratch memory. Rows of C are shared among threads for its end alone: the product is one
// call of the library, and the same whatever the number of threads.
void gemm_by_cblas(const Product& product, Parallel& parallel);

}  // namespace dsjs
