// The formula of gemm.h typed out in double.
#include <cmath>

#include "core/half.h"
#include "gemm/gemm.h"

namespace dsjs {
namespace {

constexpr double kSqrtTwoOverPi = 0.79788456080286535588;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double silu_slope(double x) { return sigmoid(x) * (1 + x * sigmoid(-x)); }
double gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double gelu_slope(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) * 0.5 * kSqrtTwoOverPi;
}
double tanh_argument(double x) { return 2 * kSqrtTwoOverPi * (x + 0.044715 * x * x * x); }
double gelu_tanh(double x) { return x * sigmoid(tanh_argument(x)); }
double gelu_tanh_slope(double x) {
  const double a = tanh_argument(x);
  return sigmoid(a) +
         x * sigmoid(a) * sigmoid(-a) * 2 * kSqrtTwoOverPi * (1 + 3 * 0.044715 * x * x);
}

double through(Prologue prologue, double x, const float* second) {
  switch (prologue) {
    case Prologue::kNone:
      return x;
    case Prologue::kGelu:
      return gelu(x);
    case Prologue::kGeluTanh:
      return gelu_tanh(x);
    case Prologue::kSilu:
      return silu(x);
    case Prologue::kSiluMul:
      return silu(x) * *second;
  }
  return x;
}

double read_a(const Product& product, size_t at) {
  return through(product.prologue, product.a[at], product.a2 + at);
}

double read_b(const Product& product, size_t at) {
  if (product.b_dtype == DType::kFloat32)
    return through(product.prologue_b, static_cast<const float*>(product.b)[at], product.b2 + at);
  const uint16_t bits = static_cast<const uint16_t*>(product.b)[at];
  return product.b_dtype == DType::kBFloat16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

double activate(const Product& product, double x, size_t at) {
  switch (product.epilogue) {
    case Epilogue::kNone:
      return x;
    case Epilogue::kGelu:
      return gelu(x);
    case Epilogue::kGeluTanh:
      return gelu_tanh(x);
    case Epilogue::kSilu:
      return silu(x);
    case Epilogue::kGeluGrad:
      return x * gelu_slope(product.z[at]);
    case Epilogue::kGeluTanhGrad:
      return x * gelu_tanh_slope(product.z[at]);
    case Epilogue::kSiluGrad:
      return x * silu_slope(product.z[at]);
  }
  return x;
}

}  // namespace

void gemm_reference(const Product& product, double* value, double* magnitude) {
  const MatrixStrides& at_a = product.a_strides;
  const MatrixStrides& at_b = product.b_strides;
  for (size_t i = 0; i < batch_count(product.batch); ++i) {
    const Operands first = operands_of(product, i);
    Product single = product;
    single.a = first.a;
    single.a2 = first.a2;
    single.b = first.b;
    single.b2 = first.b2;
    for (size_t m = 0; m < product.M; ++m)
      for (size_t n = 0; n < product.N; ++n, ++value, ++magnitude) {
        const float* c = first.c + m * product.ldc + n;
        double sum = 0, absolute = 0;
        for (size_t k = 0; k < product.K; ++k) {
          const double term = read_a(single, m * at_a.row + k * at_a.column) *
                              read_b(single, k * at_b.row + n * at_b.column);
          sum += term;
          absolute += std::fabs(term);
        }
        const double bias = product.bias ? product.bias[n] : 0;
        const double old = product.accumulate ? *c : 0;
        const size_t at = static_cast<size_t>(c - product.c);
        *value = activate(product, old + product.alpha * sum + bias, at) +
                 (product.residual ? product.residual[at] : 0);
        *magnitude = std::fabs(old) + std::fabs(product.alpha) * absolute + std::fabs(bias);
      }
  }
}

}  // namespace dsjs
