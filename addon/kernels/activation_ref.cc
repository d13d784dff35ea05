// The formulas of kernels/activation.h typed out in double.
#include <cmath>

#include "kernels/activation.h"

namespace dsjs {
namespace {

constexpr double kSqrtTwoOverPi = 0.79788456080286535588;
constexpr double kCubic = 0.044715;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double gelu_value(double x, GeluForm form) {
  if (form == GeluForm::kErf) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  return x * sigmoid(2 * kSqrtTwoOverPi * (x + kCubic * x * x * x));
}

double gelu_slope(double x, GeluForm form) {
  if (form == GeluForm::kErf)
    return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) * 0.5 * kSqrtTwoOverPi;
  const double a = 2 * kSqrtTwoOverPi * (x + kCubic * x * x * x);
  return sigmoid(a) + x * sigmoid(a) * sigmoid(-a) * 2 * kSqrtTwoOverPi * (1 + 3 * kCubic * x * x);
}

double silu_slope(double x) { return sigmoid(x) * (1 + x * sigmoid(-x)); }

void gelu(const float* x, float* y, GeluForm form, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) y[i] = static_cast<float>(gelu_value(x[i], form));
}

void gelu_grad(const float* dy, const float* x, float* dx, GeluForm form, size_t begin,
               size_t end) {
  for (size_t i = begin; i < end; ++i) dx[i] = static_cast<float>(dy[i] * gelu_slope(x[i], form));
}

void silu(const float* x, float* y, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) y[i] = static_cast<float>(x[i] * sigmoid(x[i]));
}

void silu_grad(const float* dy, const float* x, float* dx, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) dx[i] = static_cast<float>(dy[i] * silu_slope(x[i]));
}

void silu_mul(const float* gate, const float* up, float* y, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i)
    y[i] = static_cast<float>(gate[i] * sigmoid(gate[i]) * up[i]);
}

void silu_mul_grad(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                   size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const double d = dy[i], g = gate[i], u = up[i];
    dgate[i] = static_cast<float>(d * u * silu_slope(g));
    dup[i] = static_cast<float>(d * g * sigmoid(g));
  }
}

}  // namespace

const ActivationKernels& activation_reference() {
  static constexpr ActivationKernels table = {gelu,      gelu_grad, silu,
                                              silu_grad, silu_mul,  silu_mul_grad};
  return table;
}

}  // namespace dsjs
