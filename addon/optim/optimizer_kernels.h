// What the fused updates need of the hyper-parameters, worked out once per call in double and
// rounded to fp32 last. Between optim/optimizers.cc and the per-ISA loops.
#pragma once
#include <cstddef>
#include <cstdint>

#include "optim/optimizers.h"

namespace dsjs {

struct OptimizerConstants {
  float gradient_scale;
  float lr;
  // −lr·wd where weight decay is decoupled (adamw, lion, adam_frozen), else 0.
  float decay;
  // wd where it is added to the gradient, else 0.
  float l2;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float eps;
  // adam, adamax: lr/(1−β1ᵗ); adam: 1/√(1−β2ᵗ).
  float step_size;
  float inverse_root_correction2;
  // lamb, lamb_frozen: 1/(1−β1ᵗ).
  float inverse_correction1;
  // lamb_frozen: 1/√(1−β2ᵗ), whatever correction2 is given.
  float inverse_root_by_step;
  // sgd: 1 on the first step, where the momentum buffer starts as the gradient.
  bool first_step;
  bool nesterov;
};

OptimizerConstants optimizer_constants(OptimizerKind kind, const OptimizerHyper& hyper,
                                       uint64_t step, double gradient_scale);

struct OptimizerKernels {
  using Update = void (*)(const OptimizerConstants&, const OptimizerArrays&, size_t begin,
                          size_t end);
  // adam and adamw differ in their constants only.
  Update adam;
  Update sgd;
  Update sgd_momentum;
  Update lion;
  Update adagrad;
  Update adamax;
  Update rmsprop;
  Update rmsprop_centered;
  Update adagrad_root;
  Update adadelta;
  Update average;
  Update adam_frozen;
  SquaredNorm (*squared_norm)(const float* x, size_t count);
};

}  // namespace dsjs
