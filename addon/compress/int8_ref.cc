#include <algorithm>
#include <bit>

#include "compress/int8_kernels.h"

namespace dsjs {
namespace {

// Adding and taking off 1.5 · 2²³ rounds to a whole number, ties to even.
constexpr float kRounder = 12582912.0f;

uint32_t peak(const float* x, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return largest;
}

uint32_t compensate(float* x, const float* error, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] += error[i];
  return peak(x, count);
}

void quantise(const float* x, float inverse, int8_t* q, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const volatile float shifted = x[i] * inverse + kRounder;
    q[i] = static_cast<int8_t>(shifted - kRounder);
  }
}

void decode(const int8_t* q, float scale, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = static_cast<float>(q[i]) * scale;
}

void accumulate(const int8_t* q, float scale, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const volatile float value = static_cast<float>(q[i]) * scale;
    y[i] += value;
  }
}

void residual(const float* x, const int8_t* q, float scale, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const volatile float value = static_cast<float>(q[i]) * scale;
    y[i] = x[i] - value;
  }
}

}  // namespace

const Int8Kernels kInt8Reference = {compensate, peak, quantise, decode, accumulate, residual};

}  // namespace dsjs
