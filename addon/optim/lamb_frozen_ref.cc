#include <algorithm>
#include <cmath>
#include <vector>

#include "optim/lamb_frozen.h"

namespace dsjs {

void lamb_frozen_reference(const OptimizerHyper& hyper, uint64_t step, double average,
                           double* master, const float* momentum, const double* v, double* f,
                           const float* previous, double& factor, size_t count) {
  const auto t = static_cast<double>(step);
  const double correction1 = hyper.bias_correction ? 1 - std::pow(hyper.beta1, t) : 1;
  const double fresh_correction = hyper.bias_correction ? 1 - std::pow(hyper.beta2, t) : 1;
  const double frozen_correction = hyper.correction2 != 0 ? hyper.correction2 : fresh_correction;
  std::vector<double> update(count);
  double momentum_squares = 0, update_squares = 0, largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double g = (momentum[i] - hyper.beta1 * previous[i]) / (1 - hyper.beta1);
    f[i] = hyper.beta2 * f[i] + (1 - hyper.beta2) * g * g;
    const double root = std::sqrt(v[i] / frozen_correction) + hyper.eps;
    const double direction = v[i] > 0 ? momentum[i] / correction1 / root : 0;
    if (v[i] > 0)
      largest = std::max(largest, root / (std::sqrt(f[i] / fresh_correction) + hyper.eps));
    update[i] = direction + hyper.weight_decay * master[i];
    momentum_squares += direction * direction;
    update_squares += update[i] * update[i];
  }
  double next = largest;
  if (hyper.weight_decay > 0 && update_squares > 0) {
    const double share = std::min(1.0, std::sqrt(momentum_squares / update_squares));
    next = next * share + 1 - share;
  }
  next = std::min(hyper.factor_max, std::max(hyper.factor_min, next));
  factor = std::min(factor * (1 + hyper.factor_threshold),
                    std::max(factor * (1 - hyper.factor_threshold), next));
  for (size_t i = 0; i < count; ++i) master[i] -= hyper.lr * average * factor * update[i];
}

}  // namespace dsjs
