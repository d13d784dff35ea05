// LAMB (You et al., arXiv 1904.00962, algorithm 2): Adam whose step in every tensor is as long as
// the tensor itself, times lr. With g = gradient · gradient_scale, p the fp32 master weight, t =
// step from 1:
//
//   m = β1·m + (1−β1)·g;  v = β2·v + (1−β2)·g²
//   u = m/(1−β1ᵗ) / (√v/√(1−β2ᵗ) + eps) + wd·p      (without bias correction both 1−βᵗ are 1)
//   c = min(max_coeff, max(min_coeff, ‖p‖₂/‖u‖₂)), 1 where a norm is 0;  p −= lr·c·u
//
// The bounds are those of DeepSpeed's FusedLamb; the paper's φ is the identity. Two passes, since
// the norms of a tensor must be whole before its weights move; u is worked out twice, not stored.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "optim/optimizers.h"

namespace dsjs {

// Σ p² before the step, and Σ u², over some elements of a tensor; fp64.
struct LambSquares {
  double weights = 0;
  double update = 0;
};

// First pass, over elements [begin, end): m and v (state1, state2). Sums depend on the bounds, so
// that callers keep to blocks of kNormBlock and add them in order.
LambSquares lamb_moments(const OptimizerHyper& hyper, uint64_t step, double gradient_scale,
                         const OptimizerArrays& arrays, size_t begin, size_t end,
                         Isa isa = active_isa());

// c of a tensor, from its sums.
double lamb_coefficient(const OptimizerHyper& hyper, const LambSquares& squares);

// Second pass: the weights, and copy16 where there is one.
void lamb_apply(const OptimizerHyper& hyper, uint64_t step, double coefficient,
                const OptimizerArrays& arrays, size_t begin, size_t end, Isa isa = active_isa());

// The formulas typed out over one tensor, weights and moments in double: for tests.
void lamb_reference(const OptimizerHyper& hyper, uint64_t step, double gradient_scale,
                    double* master, const float* gradient, double* m, double* v, size_t count);

}  // namespace dsjs
