#include "optim/lamb.h"

#include <algorithm>
#include <cmath>

#include "core/isa_tables.h"
#include "optim/lamb_kernels.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(LambKernels, lamb)

LambSquares lamb_moments(const OptimizerHyper& hyper, uint64_t step, double gradient_scale,
                         const OptimizerArrays& arrays, size_t begin, size_t end, Isa isa) {
  const OptimizerConstants constants =
      optimizer_constants(OptimizerKind::kLamb, hyper, step, gradient_scale);
  return DSJS_ISA_TABLE(isa, lamb).moments(constants, arrays, begin, end);
}

double lamb_coefficient(const OptimizerHyper& hyper, const LambSquares& squares) {
  if (squares.weights == 0 || squares.update == 0) return 1;
  return std::clamp(std::sqrt(squares.weights) / std::sqrt(squares.update), hyper.min_coeff,
                    hyper.max_coeff);
}

void lamb_apply(const OptimizerHyper& hyper, uint64_t step, double coefficient,
                const OptimizerArrays& arrays, size_t begin, size_t end, Isa isa) {
  const OptimizerConstants constants = optimizer_constants(OptimizerKind::kLamb, hyper, step, 1);
  DSJS_ISA_TABLE(isa, lamb).apply(constants, static_cast<float>(-hyper.lr * coefficient), arrays,
                                  begin, end);
}

}  // namespace dsjs
