// Activations, element by element over [begin, end) of arrays of one length. Every output may be
// the same memory as an input of the same index; otherwise arrays do not overlap.
#pragma once
#include <cstddef>

#include "core/isa.h"

namespace dsjs {

// kErf: y = x·Φ(x), Φ the normal distribution function. kTanh: Φ(x) replaced by
// (1 + tanh(√(2/π)(x + 0.044715x³))) / 2 (Hendrycks and Gimpel 2016, arXiv 1606.08415).
enum class GeluForm { kErf, kTanh };

struct ActivationKernels {
  void (*gelu)(const float* x, float* y, GeluForm form, size_t begin, size_t end);
  // dx = dy · d gelu(x)/dx
  void (*gelu_grad)(const float* dy, const float* x, float* dx, GeluForm form, size_t begin,
                    size_t end);
  // y = x·σ(x), σ(x) = 1/(1 + e⁻ˣ)
  void (*silu)(const float* x, float* y, size_t begin, size_t end);
  // dx = dy · σ(x)(1 + x(1 − σ(x)))
  void (*silu_grad)(const float* dy, const float* x, float* dx, size_t begin, size_t end);
  // y = silu(gate)·up
  void (*silu_mul)(const float* gate, const float* up, float* y, size_t begin, size_t end);
  // dgate = dy·up·silu'(gate), dup = dy·silu(gate)
  void (*silu_mul_grad)(const float* dy, const float* gate, const float* up, float* dgate,
                        float* dup, size_t begin, size_t end);
};

const ActivationKernels& activation_kernels(Isa isa = active_isa());
// The formulas in double, for tests.
const ActivationKernels& activation_reference();

}  // namespace dsjs
