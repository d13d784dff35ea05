#include "kernels/row_math.h"
#include "kernels/softmax.h"
#include "kernels/vector_math.h"

namespace dsjs::DSJS_ISA {
namespace {

// The largest value of a row; NaN does not matter here, since the sum that follows shows it.
inline float row_max(const float* x, size_t n) {
  F32 a = splat(-__builtin_inff()), b = a;
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = max(load(x + i), a);
    b = max(load(x + i + kLanes), b);
  }
  float lanes[kLanes];
  store(lanes, max(a, b));
  float best = lanes[0];
  for (size_t lane = 1; lane < kLanes; ++lane) best = lanes[lane] > best ? lanes[lane] : best;
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

void softmax_grad(const float* dy, const float* y, float* dx, size_t D, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    const float* slope = dy + t * D;
    const float* value = y + t * D;
    const double dot = row_sum(
        D, [](F32 d, F32 v) { return d * v; }, slope, value);
    const F32 c = splat(static_cast<float>(dot));
    map(
        dx + t * D, 0, D, [c](F32 d, F32 v) { return v * (d - c); }, slope, value);
  }
}

void cross_entropy(const float* logits, const int64_t* labels, float* loss, float* lse, size_t V,
                   int64_t ignore_index, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    const float* row = logits + t * V;
    const float top = row_max(row, V);
    const F32 m = splat(top);
    const double total = row_sum(
        V, [m](F32 v) { return exp_negative(v - m); }, row);
    const double row_lse = top + __builtin_log(total);
    lse[t] = static_cast<float>(row_lse);
    loss[t] = labels[t] == ignore_index ? 0.0f : static_cast<float>(row_lse - row[labels[t]]);
  }
}

inline void scaled_row(float scale, const float* logits, float lse, float* y, size_t V) {
  const F32 factor = splat(scale), norm = splat(lse);
  map(
      y, 0, V, [factor, norm](F32 v) { return factor * exp_negative(v - norm); }, logits);
}

void cross_entropy_grad(const float* dloss, const float* logits, const int64_t* labels,
                        const float* lse, float* dlogits, size_t V, int64_t ignore_index,
                        size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    float* out = dlogits + t * V;
    if (labels[t] == ignore_index) {
      std::memset(out, 0, V * sizeof(float));
      continue;
    }
    scaled_row(dloss[t], logits + t * V, lse[t], out, V);
    out[labels[t]] -= dloss[t];
  }
}

void scaled_softmax(const float* scale, const float* logits, const float* lse, float* y, size_t V,
                    size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) scaled_row(scale[t], logits + t * V, lse[t], y + t * V, V);
}

}  // namespace

extern const SoftmaxKernels softmax;
const SoftmaxKernels softmax = {softmax_grad, cross_entropy, cross_entropy_grad, scaled_softmax};

}  // namespace dsjs::DSJS_ISA
