// Operands as kernels read them: fp32 whatever their type, with the activation that A may have, for
// gemm_simd.cc and gemm_amx.cc.
#pragma once
#include "core/simd_half.h"
#include "gemm/gemm_kernels.h"
#include "kernels/activation_math.h"

namespace dsjs::DSJS_ISA {
namespace {

// Readers give kLanes adjacent values from an offset on, or the first `count` and zeros, or one
// value, as fp32.
struct ReadF32 {
  const float* p;
  F32 all(size_t i) const { return load(p + i); }
  F32 part(size_t i, size_t count) const { return load_part(p + i, count); }
  F32 one(size_t i) const { return splat(p[i]); }
};

template <F32 (*widen)(U16)>
struct Read16 {
  const uint16_t* p;
  F32 all(size_t i) const { return widen(load16(p + i)); }
  F32 part(size_t i, size_t count) const { return widen(load16_part(p + i, count)); }
  F32 one(size_t i) const { return widen(load16_part(p + i, 1)); }
};

template <F32 (*activation)(F32)>
struct ReadActivated {
  const float* p;
  F32 all(size_t i) const { return activation(load(p + i)); }
  F32 part(size_t i, size_t count) const { return activation(load_part(p + i, count)); }
  F32 one(size_t i) const { return activation(splat(p[i])); }
};

struct ReadSiluMul {
  const float* gate;
  const float* up;
  F32 all(size_t i) const { return silu_value(load(gate + i)) * load(up + i); }
  F32 part(size_t i, size_t count) const {
    return silu_value(load_part(gate + i, count)) * load_part(up + i, count);
  }
  F32 one(size_t i) const { return silu_value(splat(gate[i])) * splat(up[i]); }
};

// Calls fn(reader) with the reader of `x` through a prologue.
template <class Fn>
void with_reader(Prologue prologue, const float* x, const float* x2, Fn fn) {
  switch (prologue) {
    case Prologue::kNone:
      return fn(ReadF32{x});
    case Prologue::kGelu:
      return fn(ReadActivated<gelu_erf>{x});
    case Prologue::kGeluTanh:
      return fn(ReadActivated<gelu_tanh>{x});
    case Prologue::kSilu:
      return fn(ReadActivated<silu_value>{x});
    case Prologue::kSiluMul:
      return fn(ReadSiluMul{x, x2});
  }
}

// Calls fn(reader) with the reader of p(A).
template <class Fn>
void with_reader_of_a(const Product& product, const float* a, const float* a2, Fn fn) {
  with_reader(product.prologue, a, a2, fn);
}

// Calls fn(reader) with the reader of B's type; B has no prologue.
template <class Fn>
void with_reader_of_b(const Product& product, const void* b, Fn fn) {
  if (product.b_dtype == DType::kBFloat16)
    fn(Read16<widen_bf16>{static_cast<const uint16_t*>(b)});
  else if (product.b_dtype == DType::kFloat16)
    fn(Read16<widen_fp16>{static_cast<const uint16_t*>(b)});
  else
    fn(ReadF32{static_cast<const float*>(b)});
}

// Calls fn(reader) with the reader of q(B).
template <class Fn>
void with_reader_of_packed_b(const Product& product, const void* b, const float* b2, Fn fn) {
  if (product.prologue_b == Prologue::kNone)
    with_reader_of_b(product, b, fn);
  else
    with_reader(product.prologue_b, static_cast<const float*>(b), b2, fn);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
