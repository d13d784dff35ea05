// What the loops of LAMB before and after the freeze share, for `*_simd.cc` files.
#pragma once
#include "core/simd_half.h"
#include "optim/optimizer_kernels.h"

namespace dsjs::DSJS_ISA {
namespace {

// A sum of squares in fp64.
struct Squares {
  F64 low{}, high{};
  void add(F32 v) {
    const F64 a = low64(v), b = high64(v);
    low += a * a;
    high += b * b;
  }
  double total() const { return sum64(low) + sum64(high); }
};

// p += factor · update(p, x, y) over elements [begin, end), and p's 16-bit copy.
template <U16 (*narrow)(F32), class Update>
void move_weights_to(const OptimizerArrays& a, const float* x, const float* y, float factor,
                     Update update, size_t begin, size_t end) {
  const F32 step = splat(factor);
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    const F32 old = load(a.master + i);
    const F32 p = fma(step, update(old, load(x + i), load(y + i)), old);
    store(a.master + i, p);
    if constexpr (narrow != nullptr) store16(a.copy16 + i, narrow(p));
  }
  if (i == end) return;
  const size_t rest = end - i;
  const F32 old = load_part(a.master + i, rest);
  const F32 p = fma(step, update(old, load_part(x + i, rest), load_part(y + i, rest)), old);
  store_part(a.master + i, p, rest);
  if constexpr (narrow != nullptr) store16_part(a.copy16 + i, narrow(p), rest);
}

template <class Update>
void move_weights(const OptimizerArrays& a, const float* x, const float* y, float factor,
                  Update update, size_t begin, size_t end) {
  if (a.copy16 == nullptr)
    move_weights_to<nullptr>(a, x, y, factor, update, begin, end);
  else if (a.copy_type == DType::kFloat16)
    move_weights_to<narrow_fp16>(a, x, y, factor, update, begin, end);
  else
    move_weights_to<narrow_bf16>(a, x, y, factor, update, begin, end);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
