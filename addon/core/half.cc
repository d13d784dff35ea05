#include "core/half.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/isa_tables.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(HalfKernels, half)

const HalfKernels& half_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, half); }

float bf16_to_float(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

float fp16_to_float(uint16_t value) {
  const int exponent = (value >> 10) & 31;
  const int fraction = value & 0x3ff;
  const uint32_t sign = uint32_t{value & 0x8000u} << 16;
  if (exponent == 31)
    return std::bit_cast<float>(sign | 0x7f800000u | (fraction ? 0x400000u : 0u) |
                                (static_cast<uint32_t>(fraction) << 13));
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(fraction | 0x400), exponent - 25);
  return sign ? -magnitude : magnitude;
}

uint16_t float_to_bf16(float value) {
  const uint32_t raw = std::bit_cast<uint32_t>(value);
  if ((raw & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((raw >> 16) | 0x40);
  return static_cast<uint16_t>((raw + 0x7fff + ((raw >> 16) & 1)) >> 16);
}

uint16_t float_to_fp16(float value) {
  const uint32_t raw = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((raw >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00 | ((raw >> 13) & 0x3ff);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude == 0) return sign;
  // The spacing of fp16 numbers around the value: 2⁻²⁴ for subnormals. nearbyint rounds ties to
  // even.
  int exponent;
  std::frexp(magnitude, &exponent);
  const int step = exponent - 11 < -24 ? -24 : exponent - 11;
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -step)));
  // units ≤ 2048; with step > −24 it is at least 1024, and its leading bit adds 1 to the exponent
  // field.
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(step + 24) << 10) + units));
}

namespace {

constexpr size_t kBlock = 4096;

[[noreturn]] void refuse(DType type) {
  throw EngineError("INVALID_ARGUMENT", "float conversion: data type " +
                                            std::to_string(static_cast<int>(type)) +
                                            " is none of float32, float16, bfloat16, float64");
}

// fp64 to fp32 towards an odd last bit: narrowing the result again rounds as one narrowing would.
float to_odd(double value) {
  float nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
  if (std::isinf(nearest) || std::fabs(static_cast<double>(nearest)) > std::fabs(value))
    nearest = std::nextafterf(nearest, 0.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) | 1u);
}

void to_float(const void* source, DType from, size_t at, float* target, size_t count, bool odd) {
  switch (from) {
    case DType::kFloat32:
      std::memcpy(target, static_cast<const float*>(source) + at, count * sizeof(float));
      return;
    case DType::kBFloat16:
      half_kernels().bf16_to_float(static_cast<const uint16_t*>(source) + at, target, count);
      return;
    case DType::kFloat16:
      half_kernels().fp16_to_float(static_cast<const uint16_t*>(source) + at, target, count);
      return;
    case DType::kFloat64: {
      const double* values = static_cast<const double*>(source) + at;
      for (size_t i = 0; i < count; ++i)
        target[i] = odd ? to_odd(values[i]) : static_cast<float>(values[i]);
      return;
    }
    default:
      refuse(from);
  }
}

void from_float(const float* source, void* target, DType to, size_t at, size_t count) {
  switch (to) {
    case DType::kFloat32:
      std::memcpy(static_cast<float*>(target) + at, source, count * sizeof(float));
      return;
    case DType::kBFloat16:
      half_kernels().float_to_bf16(source, static_cast<uint16_t*>(target) + at, count);
      return;
    case DType::kFloat16:
      half_kernels().float_to_fp16(source, static_cast<uint16_t*>(target) + at, count);
      return;
    case DType::kFloat64: {
      double* values = static_cast<double*>(target) + at;
      for (size_t i = 0; i < count; ++i) values[i] = source[i];
      return;
    }
    default:
      refuse(to);
  }
}

bool is_float(DType type) {
  return type == DType::kFloat32 || type == DType::kFloat16 || type == DType::kBFloat16 ||
         type == DType::kFloat64;
}

}  // namespace

void convert_floats(const void* source, DType from, void* target, DType to, size_t count) {
  if (!is_float(from)) refuse(from);
  if (!is_float(to)) refuse(to);
  if (from == to) {
    if (source != target && count > 0) std::memcpy(target, source, count * size_of(from));
    return;
  }
  if (from == DType::kFloat32)
    return from_float(static_cast<const float*>(source), target, to, 0, count);
  if (to == DType::kFloat32)
    return to_float(source, from, 0, static_cast<float*>(target), count, false);
  float block[kBlock];
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t n = count - at < kBlock ? count - at : kBlock;
    to_float(source, from, at, block, n, true);
    from_float(block, target, to, at, n);
  }
}

}  // namespace dsjs
