// Activations and their derivatives on vectors, for `*_simd.cc` files. Formulas in activation.h.
#pragma once
#include "kernels/vector_math.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr float kTwoSqrtTwoOverPi = 1.5957691216f;
constexpr float kCubic = 0.044715f;
constexpr float kInvSqrtTwoPi = 0.3989422804f;

// (1 + tanh(a))/2 = σ(2a), which keeps its digits in the left tail.
inline F32 tanh_form_argument(F32 x) {
  return kTwoSqrtTwoOverPi * x * fma(kCubic * x, x, splat(1.0f));
}

inline F32 gelu_erf(F32 x) { return x * normal(x).cdf; }
inline F32 gelu_tanh(F32 x) { return x * sigmoid(tanh_form_argument(x)).value; }

// Slopes are constant beyond ±100, where their formulas would multiply infinity by 0. NaN stays.
inline F32 clamp(F32 x) { return min(splat(100.0f), max(splat(-100.0f), x)); }

inline F32 gelu_erf_slope(F32 x) {
  x = clamp(x);
  const Normal n = normal(x);
  return fma(x, n.gauss * kInvSqrtTwoPi, n.cdf);
}

inline F32 gelu_tanh_slope(F32 x) {
  x = clamp(x);
  const Sigmoid s = sigmoid(tanh_form_argument(x));
  const F32 argument_slope = kTwoSqrtTwoOverPi * fma(3.0f * kCubic * x, x, splat(1.0f));
  return fma(x * argument_slope, s.value * s.complement, s.value);
}

inline F32 silu_value(F32 x) { return x * sigmoid(x).value; }
inline F32 silu_slope(F32 x) {
  x = clamp(x);
  const Sigmoid s = sigmoid(x);
  return s.value * fma(x, s.complement, splat(1.0f));
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
