// 1-bit LAMB (Li et al., arXiv 2104.06069, algorithm 1): LAMB while gradients travel whole, then a
// momentum that comes in one bit an element, second moments v that stay, and a trust ratio that
// cannot be measured any more. It is the average c̄ of those before, times a factor from how far
// fresh second moments f have gone from the frozen ones.
//
//   onebit_lamb   optim/lamb.h's step; then c̄ = coeff_beta·c̄ + (1−coeff_beta)·c, where neither norm
//                 is 0; the first c is c̄ itself. States m, v, f; f is not touched.
//   lamb_frozen   with the new momentum m in the place of the gradient, and m′ the one before:
//                 g = (m − β1·m′)/(1−β1);  f = β2·f + (1−β2)·g²
//                 u₀ = m/(1−β1ᵗ) / (√v/√correction2 + eps);  u = u₀ + wd·p
//                 r = max over elements (√v/√correction2 + eps) / (√f/√(1−β2ᵗ) + eps)
//                 with decay, w = min(1, ‖u₀‖/‖u‖): r = r·w + 1 − w, for only u₀ depends on v
//                 r into [factor_min, factor_max], then into [1 − threshold, 1 + threshold] times
//                 the r before, which starts at 1;  p −= lr·c̄·r·u
//                 States v, f, m′.
//
// w is DeepSpeed's. Where v is 0 there never was a gradient: u₀ is 0 there, and r does not count
// it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "optim/lamb.h"
#include "optim/optimizers.h"

namespace dsjs {

// Of a tensor, between steps; both are 0 before they have a value.
struct TrustRatio {
  float average = 0;
  float factor = 0;
};

// c̄ after a step whose ratio was c. `squares` are those of the step, as lamb_moments gives them.
void average_trust_ratio(const OptimizerHyper& hyper, const LambSquares& squares, double c,
                         TrustRatio& ratio);

// Over some elements of a tensor: Σ u₀², Σ u² and the largest quotient of roots.
struct FrozenSums {
  double momentum = 0;
  double update = 0;
  float largest = 0;
  void add(const FrozenSums& part);
};

// First pass, over elements [begin, end): f. Sums depend on the bounds as those of lamb_moments do.
FrozenSums lamb_frozen_moments(const OptimizerHyper& hyper, uint64_t step,
                               const OptimizerArrays& arrays, size_t begin, size_t end,
                               Isa isa = active_isa());

// Updates r of a tensor from its sums; returns c̄·r, with 1 for a c̄ that has no value.
double frozen_coefficient(const OptimizerHyper& hyper, const FrozenSums& sums, TrustRatio& ratio);

// Second pass: the weights, and copy16 where there is one.
void lamb_frozen_apply(const OptimizerHyper& hyper, uint64_t step, double coefficient,
                       const OptimizerArrays& arrays, size_t begin, size_t end,
                       Isa isa = active_isa());

// lamb_frozen typed out over one tensor in double: for tests. `average` is c̄.
void lamb_frozen_reference(const OptimizerHyper& hyper, uint64_t step, double average,
                           double* master, const float* momentum, const double* v, double* f,
                           const float* previous, double& factor, size_t count);

}  // namespace dsjs
