#include <algorithm>
#include <cmath>
#include <vector>

#include "optim/lamb.h"

namespace dsjs {

void lamb_reference(const OptimizerHyper& hyper, uint64_t step, double gradient_scale,
                    double* master, const float* gradient, double* m, double* v, size_t count) {
  const auto t = static_cast<double>(step);
  const double correction1 = hyper.bias_correction ? 1 - std::pow(hyper.beta1, t) : 1;
  const double correction2 = hyper.bias_correction ? 1 - std::pow(hyper.beta2, t) : 1;
  std::vector<double> update(count);
  double weight_squares = 0, update_squares = 0;
  for (size_t i = 0; i < count; ++i) {
    const double g = gradient[i] * gradient_scale;
    m[i] = hyper.beta1 * m[i] + (1 - hyper.beta1) * g;
    v[i] = hyper.beta2 * v[i] + (1 - hyper.beta2) * g * g;
    update[i] = m[i] / correction1 / (std::sqrt(v[i] / correction2) + hyper.eps) +
                hyper.weight_decay * master[i];
    weight_squares += master[i] * master[i];
    update_squares += update[i] * update[i];
  }
  double coefficient = 1;
  if (weight_squares != 0 && update_squares != 0)
    coefficient = std::min(hyper.max_coeff,
                           std::max(hyper.min_coeff, std::sqrt(weight_squares / update_squares)));
  for (size_t i = 0; i < count; ++i) master[i] -= hyper.lr * coefficient * update[i];
}

}  // namespace dsjs
