// The loop of top-k compression over the elements of a tensor, the same bits on every instruction
// set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace dsjs {

// Elements that may go, in ascending order of place. Both arrays have room for kSlack elements more
// than can be found.
struct Candidates {
  uint32_t* places;
  float* values;
  size_t found;

  static constexpr size_t kSlack = 16;
};

struct TopKKernels {
  // x += error, unless error is null; notes first + i and x[i] of every element whose |x|, as bits,
  // is at least `least`. Returns the bits of the largest |x|.
  uint32_t (*collect)(float* x, const float* error, size_t count, uint32_t first, uint32_t least,
                      Candidates& candidates);
};

const TopKKernels& top_k_kernels(Isa isa = active_isa());

// The same typed out, an element at a time: for tests.
extern const TopKKernels kTopKReference;

}  // namespace dsjs
