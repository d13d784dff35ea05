// The formulas of kernels/softmax.h typed out in double.
#include <cmath>
#include <string>

#include "core/error.h"
#include "kernels/softmax.h"

namespace dsjs {

void check_labels(const int64_t* labels, size_t rows, size_t V, int64_t ignore_index) {
  for (size_t t = 0; t < rows; ++t) {
    if (labels[t] == ignore_index) continue;
    if (labels[t] < 0 || static_cast<uint64_t>(labels[t]) >= V)
      throw EngineError("INVALID_ARGUMENT",
                        "cross-entropy: label " + std::to_string(labels[t]) + " of row " +
                            std::to_string(t) + " is outside [0, " + std::to_string(V) +
                            ") and is not ignore_index " + std::to_string(ignore_index));
  }
}

namespace {

void softmax_grad(const float* dy, const float* y, float* dx, size_t D, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    double dot = 0;
    for (size_t c = 0; c < D; ++c) dot += double{dy[t * D + c]} * y[t * D + c];
    for (size_t c = 0; c < D; ++c)
      dx[t * D + c] = static_cast<float>(y[t * D + c] * (dy[t * D + c] - dot));
  }
}

void cross_entropy(const float* logits, const int64_t* labels, float* loss, float* lse, size_t V,
                   int64_t ignore_index, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    const float* row = logits + t * V;
    double top = row[0], total = 0;
    // Not std::fmax: GCC 12 fails on it here, compiling for arm64 (vect_transform_reduction).
    for (size_t c = 1; c < V; ++c) top = row[c] > top ? row[c] : top;
    for (size_t c = 0; c < V; ++c) total += std::exp(row[c] - top);
    const double row_lse = top + std::log(total);
    lse[t] = static_cast<float>(row_lse);
    loss[t] = labels[t] == ignore_index ? 0.0f : static_cast<float>(row_lse - row[labels[t]]);
  }
}

void cross_entropy_grad(const float* dloss, const float* logits, const int64_t* labels,
                        const float* lse, float* dlogits, size_t V, int64_t ignore_index,
                        size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t)
    for (size_t c = 0; c < V; ++c) {
      const bool target = labels[t] == static_cast<int64_t>(c);
      const double slope = std::exp(double{logits[t * V + c]} - lse[t]) - (target ? 1 : 0);
      dlogits[t * V + c] = labels[t] == ignore_index ? 0.0f : static_cast<float>(dloss[t] * slope);
    }
}

void scaled_softmax(const float* scale, const float* logits, const float* lse, float* y, size_t V,
                    size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t)
    for (size_t c = 0; c < V; ++c)
      y[t * V + c] = static_cast<float>(scale[t] * std::exp(double{logits[t * V + c]} - lse[t]));
}

}  // namespace

const SoftmaxKernels& softmax_reference() {
  static constexpr SoftmaxKernels table = {softmax_grad, cross_entropy, cross_entropy_grad,
                                           scaled_softmax};
  return table;
}

}  // namespace dsjs
