// Cross-entropy of linear class scores, loss and gradient, without the scores as a whole: chunks of
// rows and classes pass through a scratch of some 16 MiB. T rows, D features, V classes.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace dsjs {

struct LinearCrossEntropy {
  size_t T, D, V;
  const float* x;  // [T, D]
  const void* w;   // [V, D], or [D, V] where transposed
  bool transposed;
  const int64_t* labels;  // [T], each ignore_index or in [0, V)
  int64_t ignore_index;
  DType w_dtype = DType::kFloat32;  // as Product's b_dtype
};

// Floats of scratch memory for loss or gradient.
size_t linear_cross_entropy_scratch(const LinearCrossEntropy& problem, size_t threads,
                                    Isa isa = active_isa());

// lse[t] = log Σ exp(x[t]·w[v]), loss[t] = lse[t] − x[t]·w[label]; 0 where the label is ignored.
void linear_cross_entropy(const LinearCrossEntropy& problem, float* loss, float* lse,
                          Parallel& parallel, float* scratch, Isa isa = active_isa());

// What the gradients of both results are, [T] each.
struct LinearCrossEntropyGradients {
  const float* dloss;
  const float* dlse = nullptr;  // null: nothing depends on lse
};

// dx = Σ g·w and dw (as w; may be null) = or += Σ g·x over the slope g of each score, dloss ·
// (exp(score − lse) − onehot(label)) + dlse · exp(score − lse); dloss counts as 0 where the label
// is ignored. The scores are computed again.
void linear_cross_entropy_grad(const LinearCrossEntropy& problem,
                               const LinearCrossEntropyGradients& gradients, const float* lse,
                               float* dx, float* dw, bool add_dw, Parallel& parallel,
                               float* scratch, Isa isa = active_isa());

}  // namespace dsjs
