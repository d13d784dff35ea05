// The formulas of kernels/elementwise.h typed out, sums in double.
#include <array>
#include <vector>

#include "kernels/elementwise.h"

namespace dsjs {
namespace {

void accumulate(const float* grad, float* buffer, bool first, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) buffer[i] = first ? grad[i] : buffer[i] + grad[i];
}

void embedding_grad(const float* dy, const int64_t* indices, float* buffer, size_t T, size_t V,
                    size_t D, bool first, size_t begin, size_t end) {
  const auto rows = static_cast<int64_t>(V);
  for (size_t v = 0; v < V; ++v)
    for (size_t c = begin; c < end; ++c) {
      double sum = first ? 0 : buffer[v * D + c];
      for (size_t t = 0; t < T; ++t)
        if (static_cast<size_t>((indices[t] + rows) % rows) == v) sum += dy[t * D + c];
      buffer[v * D + c] = static_cast<float>(sum);
    }
}

void rotary(const float* x, const float* cos, const float* sin, float* y, size_t S, size_t D,
            bool inverse, size_t begin, size_t end) {
  const size_t half = D / 2;
  for (size_t row = begin; row < end; ++row)
    for (size_t i = 0; i < half; ++i) {
      const double c = cos[row % S * half + i];
      const double s = (inverse ? -1.0 : 1.0) * sin[row % S * half + i];
      const double x1 = x[row * D + i], x2 = x[row * D + half + i];
      y[row * D + i] = static_cast<float>(x1 * c - x2 * s);
      y[row * D + half + i] = static_cast<float>(x2 * c + x1 * s);
    }
}

using Words = std::array<uint32_t, 4>;

Words philox(Words counter, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

bool keeps(const DropoutMask& mask, size_t i) {
  const auto seed = static_cast<uint64_t>(mask.rng[0]);
  const size_t column = i % mask.columns, row = i / mask.columns % mask.rows;
  const size_t plane = i / mask.columns / mask.rows % mask.planes;
  const size_t sample = i / mask.columns / mask.rows / mask.planes;
  const Words words =
      philox({static_cast<uint32_t>(column / 4 + 65536 * row),
              static_cast<uint32_t>(mask.stream + 65536 * plane),
              static_cast<uint32_t>(mask.rng[1]), static_cast<uint32_t>(mask.rng[2 + sample])},
             static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return (words[column % 4] >> 8) * 0x1p-24 >= mask.ratio;
}

void dropout(const float* x, float* y, const DropoutMask& mask, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i)
    y[i] = keeps(mask, i) ? x[i] * (1.0f / (1.0f - mask.ratio)) : 0.0f;
}

void dropout_kept(uint8_t* kept, const DropoutMask& mask, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) kept[i] = keeps(mask, i);
}

void fill(float* target, float value, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) target[i] = value;
}

void axpby(const float* source, float* target, float b, float a, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i)
    target[i] = static_cast<float>((a == 0 ? 0 : double{a} * target[i]) + double{b} * source[i]);
}

}  // namespace

const ElementwiseKernels& elementwise_reference() {
  static constexpr ElementwiseKernels table = {accumulate,   embedding_grad, rotary, dropout,
                                               dropout_kept, fill,           axpby};
  return table;
}

}  // namespace dsjs
