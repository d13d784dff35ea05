#include <cmath>

#include "optim/optimizers.h"

namespace dsjs {
namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

void adam(const OptimizerHyper& h, uint64_t step, double g, double& p, double& m, double& v) {
  const double t = static_cast<double>(step);
  m = h.beta1 * m + (1 - h.beta1) * g;
  v = h.beta2 * v + (1 - h.beta2) * g * g;
  const double correction1 = h.bias_correction ? 1 - std::pow(h.beta1, t) : 1;
  const double correction2 = h.bias_correction ? 1 - std::pow(h.beta2, t) : 1;
  p -= h.lr / correction1 * m / (std::sqrt(v) / std::sqrt(correction2) + h.eps);
}

void sgd(const OptimizerHyper& h, uint64_t step, double g, double& p, double* b) {
  double direction = g;
  if (h.beta1 != 0) {
    *b = step == 1 ? g : h.beta1 * *b + (1 - h.dampening) * g;
    direction = h.nesterov ? g + h.beta1 * *b : *b;
  }
  p -= h.lr * direction;
}

void lion(const OptimizerHyper& h, double g, double& p, double& m) {
  p -= h.lr * sign(h.beta1 * m + (1 - h.beta1) * g);
  m = h.beta2 * m + (1 - h.beta2) * g;
}

void adagrad(const OptimizerHyper& h, double g, double& p, double& v) {
  v += g * g;
  p -= h.lr * g / (std::sqrt(v) + h.eps);
}

}  // namespace

void optimizer_reference(OptimizerKind kind, const OptimizerHyper& hyper, uint64_t step,
                         double gradient_scale, double* master, const float* gradient,
                         double* state1, double* state2, size_t count) {
  const bool decoupled = kind == OptimizerKind::kAdamW || kind == OptimizerKind::kLion;
  for (size_t i = 0; i < count; ++i) {
    double& p = master[i];
    double g = gradient[i] * gradient_scale;
    if (decoupled)
      p -= hyper.lr * hyper.weight_decay * p;
    else
      g += hyper.weight_decay * p;
    switch (kind) {
      case OptimizerKind::kAdam:
      case OptimizerKind::kAdamW:
        adam(hyper, step, g, p, state1[i], state2[i]);
        break;
      case OptimizerKind::kSgd:
        sgd(hyper, step, g, p, state1 ? state1 + i : nullptr);
        break;
      case OptimizerKind::kLion:
        lion(hyper, g, p, state1[i]);
        break;
      case OptimizerKind::kAdagrad:
        adagrad(hyper, g, p, state1[i]);
        break;
    }
  }
}

}  // namespace dsjs
