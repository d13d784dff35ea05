// Softmax backward and the cross-entropy of class scores, over the last axis, rows [begin, end).
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace dsjs {

// Throws EngineError INVALID_ARGUMENT naming the first row whose label is neither `ignore_index`
// nor in [0, V). Call it once before the kernels, which trust the labels.
void check_labels(const int64_t* labels, size_t rows, size_t V, int64_t ignore_index);

struct SoftmaxKernels {
  // dx = y·(dy − Σ dy·y), rows of D. dx may be dy.
  void (*softmax_grad)(const float* dy, const float* y, float* dx, size_t D, size_t begin,
                       size_t end);
  // lse = log Σ exp(logits), loss = lse − logits[label]; 0 where the label is ignore_index.
  // A row with a NaN or +∞ gives NaN.
  void (*cross_entropy)(const float* logits, const int64_t* labels, float* loss, float* lse,
                        size_t V, int64_t ignore_index, size_t begin, size_t end);
  // dlogits = dloss·(exp(logits − lse) − onehot(label)); 0 where the label is ignore_index.
  // dlogits may be logits. `dloss` has one value a row.
  void (*cross_entropy_grad)(const float* dloss, const float* logits, const int64_t* labels,
                             const float* lse, float* dlogits, size_t V, int64_t ignore_index,
                             size_t begin, size_t end);
  // y = scale·exp(logits − lse), where no logit is above lse. y may be logits. `scale` and `lse`
  // have one value a row.
  void (*scaled_softmax)(const float* scale, const float* logits, const float* lse, float* y,
                         size_t V, size_t begin, size_t end);
};

const SoftmaxKernels& softmax_kernels(Isa isa = active_isa());
const SoftmaxKernels& softmax_reference();

}  // namespace dsjs
