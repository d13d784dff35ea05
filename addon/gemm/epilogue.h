// What is done to finished elements of C, for gemm_simd.cc. They have just been written and are
// read back from the first-level cache.
#pragma once
#include "gemm/gemm_kernels.h"
#include "kernels/activation_math.h"

namespace dsjs::DSJS_ISA {
namespace {

// `rows` × columns of C from `c` on: C = fn(C + bias, Z) + residual.
template <class Fn>
void finish_with(const Product& product, float* c, size_t rows, Span columns, Fn fn) {
  const size_t at = static_cast<size_t>(c - product.c);
  const float* bias = product.bias ? product.bias + columns.begin : nullptr;
  for (size_t r = 0; r < rows; ++r) {
    float* to = c + r * product.ldc;
    const float* z = product.z ? product.z + at + r * product.ldc : nullptr;
    const float* residual = product.residual ? product.residual + at + r * product.ldc : nullptr;
    const auto step = [&](size_t j, auto get, auto put) {
      F32 value = get(to + j);
      if (bias) value += get(bias + j);
      value = fn(value, z ? get(z + j) : F32{});
      if (residual) value += get(residual + j);
      put(to + j, value);
    };
    size_t j = 0;
    for (; j + kLanes <= columns.count; j += kLanes) step(j, load, store);
    const size_t rest = columns.count - j;
    if (rest > 0)
      step(
          j, [rest](const float* p) { return load_part(p, rest); },
          [rest](float* p, F32 v) { store_part(p, v, rest); });
  }
}

void finish(const Product& product, float* c, size_t rows, Span columns) {
  const auto run = [&](auto fn) { finish_with(product, c, rows, columns, fn); };
  switch (product.epilogue) {
    case Epilogue::kNone:
      if (!product.bias && !product.residual) return;
      return run([](F32 v, F32) { return v; });
    case Epilogue::kGelu:
      return run([](F32 v, F32) { return gelu_erf(v); });
    case Epilogue::kGeluTanh:
      return run([](F32 v, F32) { return gelu_tanh(v); });
    case Epilogue::kSilu:
      return run([](F32 v, F32) { return silu_value(v); });
    case Epilogue::kGeluGrad:
      return run([](F32 v, F32 z) { return v * gelu_erf_slope(z); });
    case Epilogue::kGeluTanhGrad:
      return run([](F32 v, F32 z) { return v * gelu_tanh_slope(z); });
    case Epilogue::kSiluGrad:
      return run([](F32 v, F32 z) { return v * silu_slope(z); });
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
