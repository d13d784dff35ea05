// The loops of int8 compression, the same bits on every instruction set. A block's scale is its
// largest absolute value / 127, and q = round(value · 127/largest), ties to even.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace dsjs {

struct Int8Kernels {
  // x += error; returns the bits of the largest |x|: a NaN or an infinity is not below kInfinity.
  uint32_t (*compensate)(float* x, const float* error, size_t count);
  // The bits of the largest |x|.
  uint32_t (*peak)(const float* x, size_t count);
  // q = round(x · inverse)
  void (*quantise)(const float* x, float inverse, int8_t* q, size_t count);
  // y = q · scale
  void (*decode)(const int8_t* q, float scale, float* y, size_t count);
  // y += q · scale
  void (*accumulate)(const int8_t* q, float scale, float* y, size_t count);
  // y = x − q · scale
  void (*residual)(const float* x, const int8_t* q, float scale, float* y, size_t count);
  // Two of [−8, 8) a byte, the first in the low half; an odd last one has zeros beside it.
  void (*pack4)(const int8_t* q, uint8_t* packed, size_t count);
  void (*unpack4)(const uint8_t* packed, int8_t* q, size_t count);

  static constexpr uint32_t kInfinity = 0x7f800000;
};

const Int8Kernels& int8_kernels(Isa isa = active_isa());

// The same typed out, an element at a time: for tests.
extern const Int8Kernels kInt8Reference;

}  // namespace dsjs
