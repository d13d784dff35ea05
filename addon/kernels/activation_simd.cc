#include "kernels/activation.h"
#include "kernels/activation_math.h"

namespace dsjs::DSJS_ISA {
namespace {

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
