// What reduce_simd.cc exports for each instruction set.
#pragma once
#include <cstddef>

namespace dsjs {

// accumulator[i] = op(accumulator[i], source[i]); sum, max, min in the order of ReduceOp.
using Combine = void (*)(void* accumulator, const void* source, size_t count);
struct CombineByOp {
  Combine sum, max, min;
};

struct ReduceTable {
  CombineByOp float32, float64, int32, int64;
  void (*add_pair)(float* first, float* second, size_t count);
};

}  // namespace dsjs
