// One-bit compression with error feedback: the loops over elements. Every result is the same, bit
// for bit, on every instruction set: sums of squares are kept in sixteen fp64 stripes, element i in
// stripe i mod 16, which are added in ascending order last.
//
// Bit i mod 8 (least significant first) of byte i / 8 is 1 where element i is not negative; −0
// counts as not negative. The bits behind the last element are 0.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace dsjs {

// Bytes that the signs of `count` elements take.
constexpr size_t sign_bytes(size_t count) { return (count + 7) / 8; }

struct SignKernels {
  // error += x; returns Σ error², which is not finite where an element is not.
  double (*compensate)(const float* x, float* error, size_t count);
  // error = (Σ_r ±scales[r] by bits[r], in rank order) / ranks + error; returns Σ error².
  double (*average)(const uint8_t* const* bits, const float* scales, size_t ranks, float* error,
                    size_t count);
  // Writes the signs of error, and takes ±scale off it: what was not sent stays.
  void (*pack)(float* error, float scale, uint8_t* bits, size_t count);
  // y = ±scale
  void (*unpack)(const uint8_t* bits, float scale, float* y, size_t count);
};

const SignKernels& sign_kernels(Isa isa = active_isa());

// The same typed out, an element at a time: for tests.
extern const SignKernels kSignReference;

}  // namespace dsjs
