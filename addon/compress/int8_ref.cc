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

void pack4(const int8_t* q, uint8_t* packed, size_t count) {
  for (size_t i = 0; i < count; i += 2) {
    const int high = i + 1 < count ? q[i + 1] : 0;
    packed[i / 2] = static_cast<uint8_t>((q[i] & 15) | (high & 15) << 4);
  }
}

void unpack4(const uint8_t* packed, int8_t* q, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const int half = i % 2 == 0 ? packed[i / 2] & 15 : packed[i / 2] >> 4;
    q[i] = static_cast<int8_t>(half < 8 ? half : half - 16);
  }
}

}  // namespace

const Int8Kernels kInt8Reference = {compensate, peak,     quantise, decode,
                                    accumulate, residual, pack4,    unpack4};

}  // namespace dsjs
