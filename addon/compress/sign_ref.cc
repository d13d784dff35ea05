#include "compress/sign_kernels.h"

namespace dsjs {
namespace {

constexpr size_t kStripes = 16;

class StripedSquares {
 public:
  void add(size_t i, float value) { stripes_[i % kStripes] += double{value} * value; }
  double total() const {
    double sum = 0;
    for (double stripe : stripes_) sum += stripe;
    return sum;
  }

 private:
  double stripes_[kStripes] = {};
};

float signed_scale(const uint8_t* bits, size_t i, float scale) {
  return (bits[i / 8] >> (i % 8) & 1) != 0 ? scale : -scale;
}

double compensate(const float* x, float* error, size_t count) {
  StripedSquares squares;
  for (size_t i = 0; i < count; ++i) {
    error[i] += x[i];
    squares.add(i, error[i]);
  }
  return squares.total();
}

double average(const uint8_t* const* bits, const float* scales, size_t ranks, float* error,
               size_t count) {
  StripedSquares squares;
  for (size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (size_t r = 0; r < ranks; ++r) sum += signed_scale(bits[r], i, scales[r]);
    error[i] += sum / static_cast<float>(ranks);
    squares.add(i, error[i]);
  }
  return squares.total();
}

void pack(float* error, float scale, uint8_t* bits, size_t count) {
  for (size_t i = 0; i < sign_bytes(count); ++i) bits[i] = 0;
  for (size_t i = 0; i < count; ++i) {
    if (error[i] >= 0) bits[i / 8] = static_cast<uint8_t>(bits[i / 8] | 1u << (i % 8));
    error[i] -= signed_scale(bits, i, scale);
  }
}

void unpack(const uint8_t* bits, float scale, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = signed_scale(bits, i, scale);
}

}  // namespace

const SignKernels kSignReference = {compensate, average, pack, unpack};

}  // namespace dsjs
