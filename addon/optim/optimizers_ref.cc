#include <algorithm>
#include <cmath>

#include "optim/optimizers.h"

namespace dsjs {
namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

double correction(const OptimizerHyper& h, double given, double beta, uint64_t step) {
  if (given != 0) return given;
  return h.bias_correction ? 1 - std::pow(beta, static_cast<double>(step)) : 1;
}

void adam(const OptimizerHyper& h, uint64_t step, double g, double& p, double& m, double& v) {
  m = h.beta1 * m + (1 - h.beta1) * g;
  v = h.beta2 * v + (1 - h.beta2) * g * g;
  const double correction1 = correction(h, h.correction1, h.beta1, step);
  const double correction2 = correction(h, h.correction2, h.beta2, step);
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

void adamax(const OptimizerHyper& h, uint64_t step, double g, double& p, double& m, double& u) {
  m = h.beta1 * m + (1 - h.beta1) * g;
  u = std::max(h.beta2 * u, std::abs(g));
  p -= h.lr / correction(h, h.correction1, h.beta1, step) * m / (u + h.eps);
}

void rmsprop(const OptimizerHyper& h, double g, double& p, double& s, double& b, double* a) {
  s = h.beta2 * s + (1 - h.beta2) * g * g;
  if (a != nullptr) *a = h.beta2 * *a + (1 - h.beta2) * g;
  const double under = a != nullptr ? s - (*a * *a + h.eps) : s + h.eps;
  b = h.beta1 * b + h.lr * g / std::sqrt(under);
  p -= b;
}

void adagrad_root(const OptimizerHyper& h, double g, double& p, double& v) {
  v += g * g;
  p -= h.lr * g / std::sqrt(v + h.eps);
}

void adadelta(const OptimizerHyper& h, double g, double& p, double& s, double& u) {
  const double d = std::sqrt(u + h.eps) / std::sqrt(s + h.eps) * g;
  s = h.beta2 * s + (1 - h.beta2) * g * g;
  u = h.beta2 * u + (1 - h.beta2) * d * d;
  p -= h.lr * d;
}

void adam_frozen(const OptimizerHyper& h, uint64_t step, double g, double& p, double v) {
  const double correction1 = correction(h, h.correction1, h.beta1, step);
  const double correction2 = correction(h, h.correction2, h.beta2, step);
  if (v > 0) p -= h.lr / correction1 * g / (std::sqrt(v) / std::sqrt(correction2) + h.eps);
}

}  // namespace

void optimizer_reference(OptimizerKind kind, const OptimizerHyper& hyper, uint64_t step,
                         double gradient_scale, double* master, const float* gradient,
                         double* state1, double* state2, double* state3, size_t count) {
  const bool decoupled = kind == OptimizerKind::kAdamW || kind == OptimizerKind::kLion ||
                         kind == OptimizerKind::kAdamFrozen;
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
      case OptimizerKind::kAdamax:
        adamax(hyper, step, g, p, state1[i], state2[i]);
        break;
      case OptimizerKind::kRmsprop:
        rmsprop(hyper, g, p, state1[i], state2[i], nullptr);
        break;
      case OptimizerKind::kRmspropCentered:
        rmsprop(hyper, g, p, state1[i], state2[i], state3 + i);
        break;
      case OptimizerKind::kAdagradRoot:
        adagrad_root(hyper, g, p, state1[i]);
        break;
      case OptimizerKind::kAdadelta:
        adadelta(hyper, g, p, state1[i], state2[i]);
        break;
      case OptimizerKind::kAverage:
        p = hyper.beta1 * p + (1 - hyper.beta1) * gradient[i] * gradient_scale;
        break;
      case OptimizerKind::kAdamFrozen:
        adam_frozen(hyper, step, g, p, state1[i]);
        break;
      case OptimizerKind::kLamb:  // lamb_reference
      case OptimizerKind::kOneBitLamb:
      case OptimizerKind::kLambFrozen:  // lamb_frozen_reference
        break;
    }
  }
}

}  // namespace dsjs
