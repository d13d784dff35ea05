#include "kernels/activation.h"
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

void gelu(const float* x, float* y, GeluForm form, size_t begin, size_t end) {
  if (form == GeluForm::kErf)
    map(y, begin, end, gelu_erf, x);
  else
    map(y, begin, end, gelu_tanh, x);
}

void gelu_grad(const float* dy, const float* x, float* dx, GeluForm form, size_t begin,
               size_t end) {
  if (form == GeluForm::kErf)
    map(
        dx, begin, end, [](F32 d, F32 v) { return d * gelu_erf_slope(v); }, dy, x);
  else
    map(
        dx, begin, end, [](F32 d, F32 v) { return d * gelu_tanh_slope(v); }, dy, x);
}

void silu(const float* x, float* y, size_t begin, size_t end) { map(y, begin, end, silu_value, x); }

void silu_grad(const float* dy, const float* x, float* dx, size_t begin, size_t end) {
  map(
      dx, begin, end, [](F32 d, F32 v) { return d * silu_slope(v); }, dy, x);
}

void silu_mul(const float* gate, const float* up, float* y, size_t begin, size_t end) {
  map(
      y, begin, end, [](F32 g, F32 u) { return silu_value(g) * u; }, gate, up);
}

void silu_mul_grad(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                   size_t begin, size_t end) {
  const auto step = [](F32 d, F32 g, F32 u, F32& to_gate, F32& to_up) {
    const F32 bounded = clamp(g);
    const Sigmoid s = sigmoid(bounded);
    to_gate = d * u * (s.value * fma(bounded, s.complement, splat(1.0f)));
    to_up = d * (g * s.value);
  };
  F32 to_gate, to_up;
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    step(load(dy + i), load(gate + i), load(up + i), to_gate, to_up);
    store(dgate + i, to_gate);
    store(dup + i, to_up);
  }
  if (i < end) {
    const size_t rest = end - i;
    step(load_part(dy + i, rest), load_part(gate + i, rest), load_part(up + i, rest), to_gate,
         to_up);
    store_part(dgate + i, to_gate, rest);
    store_part(dup + i, to_up, rest);
  }
}

}  // namespace

extern const ActivationKernels activation;
const ActivationKernels activation = {gelu, gelu_grad, silu, silu_grad, silu_mul, silu_mul_grad};

}  // namespace dsjs::DSJS_ISA
