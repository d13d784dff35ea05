#include "optim/lamb_frozen.h"

#include <algorithm>
#include <cmath>

#include "core/isa_tables.h"
#include "optim/lamb_frozen_kernels.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(LambFrozenKernels, lamb_frozen)

void average_trust_ratio(const OptimizerHyper& hyper, const LambSquares& squares, double c,
                         TrustRatio& ratio) {
  if (squares.weights == 0 || squares.update == 0) return;
  ratio.average = static_cast<float>(
      ratio.average == 0 ? c : hyper.coeff_beta * ratio.average + (1 - hyper.coeff_beta) * c);
}

void FrozenSums::add(const FrozenSums& part) {
  momentum += part.momentum;
  update += part.update;
  largest = std::max(largest, part.largest);
}

FrozenSums lamb_frozen_moments(const OptimizerHyper& hyper, uint64_t step,
                               const OptimizerArrays& arrays, size_t begin, size_t end, Isa isa) {
  const OptimizerConstants constants =
      optimizer_constants(OptimizerKind::kLambFrozen, hyper, step, 1);
  return DSJS_ISA_TABLE(isa, lamb_frozen).moments(constants, arrays, begin, end);
}

double frozen_coefficient(const OptimizerHyper& hyper, const FrozenSums& sums, TrustRatio& ratio) {
  double factor = sums.largest;
  if (hyper.weight_decay > 0 && sums.update > 0) {
    const double share = std::min(1.0, std::sqrt(sums.momentum / sums.update));
    factor = factor * share + 1 - share;
  }
  const double last = ratio.factor == 0 ? 1 : ratio.factor;
  factor = std::clamp(factor, hyper.factor_min, hyper.factor_max);
  factor =
      std::clamp(factor, last * (1 - hyper.factor_threshold), last * (1 + hyper.factor_threshold));
  ratio.factor = static_cast<float>(factor);
  return (ratio.average == 0 ? 1 : ratio.average) * factor;
}

void lamb_frozen_apply(const OptimizerHyper& hyper, uint64_t step, double coefficient,
                       const OptimizerArrays& arrays, size_t begin, size_t end, Isa isa) {
  const OptimizerConstants constants =
      optimizer_constants(OptimizerKind::kLambFrozen, hyper, step, 1);
  DSJS_ISA_TABLE(isa, lamb_frozen)
      .apply(constants, static_cast<float>(-hyper.lr * coefficient), arrays, begin, end);
}

}  // namespace dsjs
