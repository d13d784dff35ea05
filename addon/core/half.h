// 16-bit storage types. bf16: 1 sign, 8 exponent, 7 fraction bits; fp16 (IEEE binary16): 1, 5, 10.
// Narrowing rounds to nearest, ties to even; overflow gives infinity, NaN stays NaN (quiet),
// subnormal numbers are kept in both directions.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/isa.h"

namespace dsjs {

// One value at a time: for tails, tests and cold paths.
float bf16_to_float(uint16_t value);
float fp16_to_float(uint16_t value);
uint16_t float_to_bf16(float value);
uint16_t float_to_fp16(float value);

// Whole arrays, not overlapping.
struct HalfKernels {
  void (*bf16_to_float)(const uint16_t* source, float* target, size_t count);
  void (*fp16_to_float)(const uint16_t* source, float* target, size_t count);
  void (*float_to_bf16)(const float* source, uint16_t* target, size_t count);
  void (*float_to_fp16)(const float* source, uint16_t* target, size_t count);
};
const HalfKernels& half_kernels(Isa isa = active_isa());

// Converts `count` values between any two of float32, float16, bfloat16 and float64, each narrowing
// rounded once. Source and target do not overlap, unless they are the same memory of the same type
// (then nothing happens). Throws EngineError INVALID_ARGUMENT for other types.
void convert_floats(const void* source, DType from, void* target, DType to, size_t count);

}  // namespace dsjs
