// What is done to a tile of C when its sum is complete, for gemm_simd.cc and gemm_amx.cc.
//
// The sums wait in a buffer of their own and C is written once: rows of C a power of two apart
// share few places of the first-level cache, so that a tile written there and read back would be
// gone.
#pragma once
#include "gemm/gemm_kernels.h"
#include "kernels/activation_math.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kLine = 16;  // floats of a cache line

// What the end of a tile reads and writes besides its sums: rows of C, Z and the residual. They are
// asked for before the terms are added up, into the second-level cache: in the first they would
// wait among operands, of which it holds hardly more than two panels.
struct Later {
  const float* from[3];
  size_t count;
  size_t pitch;

  template <size_t kColumns>
  void fetch_row(size_t row) const {
    for (size_t i = 0; i < count; ++i)
#pragma GCC unroll 4
      for (size_t j = 0; j < kColumns; j += kLine)
        __builtin_prefetch(from[i] + row * pitch + j, 0, 2);
  }
};

inline Later later_of(const Product& product, const float* c, bool finish) {
  Later later{{c}, 1, product.ldc};
  const auto at = c - product.c;
  if (finish && product.z) later.from[later.count++] = product.z + at;
  if (finish && product.residual) later.from[later.count++] = product.residual + at;
  return later;
}

// The product of a tile, rows `pitch` floats apart. alpha times it replaces C or is added to it.
struct Sums {
  const float* at;
  size_t pitch;
  float alpha;
  bool replace;
};

// Calls fn(j, get, put) for the columns [0, count), a vector at a time: `get` and `put` move whole
// vectors or what is left.
template <class Fn>
inline void for_vectors(size_t count, Fn fn) {
  size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) fn(j, load, store);
  const size_t rest = count - j;
  if (rest > 0)
    fn(
        j, [rest](const float* p) { return load_part(p, rest); },
        [rest](float* p, F32 v) { store_part(p, v, rest); });
}

// `rows` × `columns` of C from `c` on: C = (replace ? 0 : C) + alpha · sums.
inline void put_sums(const Product& product, const Sums& sums, float* c, size_t rows,
                     size_t columns) {
  for (size_t r = 0; r < rows; ++r) {
    const float* from = sums.at + r * sums.pitch;
    float* to = c + r * product.ldc;
    for_vectors(columns, [&](size_t j, auto get, auto put) {
      const F32 value = splat(sums.alpha) * get(from + j);
      put(to + j, sums.replace ? value : get(to + j) + value);
    });
  }
}

// `rows` × columns of C from `c` on: C = fn((replace ? 0 : C) + alpha · sums + bias, Z) + residual.
template <class Fn>
void finish_with(const Product& product, const Sums& sums, float* c, size_t rows, Span columns,
                 Fn fn) {
  const size_t at = static_cast<size_t>(c - product.c);
  const float* bias = product.bias ? product.bias + columns.begin : nullptr;
  for (size_t r = 0; r < rows; ++r) {
    const float* from = sums.at + r * sums.pitch;
    float* to = c + r * product.ldc;
    const float* z = product.z ? product.z + at + r * product.ldc : nullptr;
    const float* residual = product.residual ? product.residual + at + r * product.ldc : nullptr;
    for_vectors(columns.count, [&](size_t j, auto get, auto put) {
      F32 value = splat(sums.alpha) * get(from + j);
      if (!sums.replace) value += get(to + j);
      if (bias) value += get(bias + j);
      value = fn(value, z ? get(z + j) : F32{});
      if (residual) value += get(residual + j);
      put(to + j, value);
    });
  }
}

// The sums may lie in C itself.
inline void finish_sums(const Product& product, const Sums& sums, float* c, size_t rows,
                        Span columns) {
  const auto run = [&](auto fn) { finish_with(product, sums, c, rows, columns, fn); };
  switch (product.epilogue) {
    case Epilogue::kNone:
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

// The same of sums that do.
inline void finish_in_place(const Product& product, float* c, size_t rows, Span columns) {
  if (has_end(product)) finish_sums(product, {c, product.ldc, 1, true}, c, rows, columns);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
