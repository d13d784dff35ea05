// Elementary functions on vectors, for `*_simd.cc` files. Errors are in units in the last place of
// the fp32 result; kernels/activation_test.cc compares what is made of them with libm in double.
#pragma once
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

// x = n·ln2 + r with |r| ≤ ln2/2; `whole` is n.
struct Reduced {
  I32 n;
  F32 whole;
  F32 r;
};

inline Reduced reduce_exp(F32 x) {
  // Adding 1.5·2²³ leaves the rounded integer in the low bits of the sum.
  const F32 magic = splat(0x1.8p23f);
  const F32 shifted = fma(x, splat(1.44269504f), magic);
  const F32 n = shifted - magic;
  // ln2 in two parts (Cody and Waite); the first has 10 bits, so n·ln2_high is exact.
  const F32 r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  return {bits(shifted) - bits(magic), n, r};
}

// (eʳ − 1) for |r| ≤ ln2/2, Taylor to r⁷: the next term is below 2⁻²⁷ of eʳ.
inline F32 expm1_reduced(F32 r) {
  F32 p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  return fma(p, r * r, r);
}

// 2ⁿ for n in [−126, 127].
inline F32 power_of_two(I32 n) { return from_bits((n + 127) << 23); }

// p·2ⁿ, also where that is subnormal, 0 or infinity, for p near 1 and n of a clamped argument.
inline F32 times_power_of_two(F32 p, const Reduced& reduced) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_scalef_ps(__m512(p), __m512(reduced.whole)));
#else
  // In two factors, since n reaches beyond the exponents of normal numbers on both sides.
  const I32 half = reduced.n >> 1;
  return p * power_of_two(half) * power_of_two(reduced.n - half);
#endif
}

// eˣ: 2 ulp. Subnormal results are kept, below them 0; above 88.72 infinity; NaN stays.
inline F32 exp(F32 x) {
  // The second operand of min and max wins over NaN, so a NaN of x gets through.
  const Reduced reduced = reduce_exp(min(splat(89.0f), max(splat(-104.0f), x)));
  return times_power_of_two(expm1_reduced(reduced.r) + 1.0f, reduced);
}

// eˣ for x ≤ 0 where results below 2⁻¹²⁵ may become 0: fewer steps.
inline F32 exp_negative(F32 x) {
#if defined(DSJS_ISA_AVX512)
  const Reduced reduced = reduce_exp(max(splat(-104.0f), x));
  return times_power_of_two(expm1_reduced(reduced.r) + 1.0f, reduced);
#else
  const Reduced reduced = reduce_exp(max(splat(-86.0f), x));
  const F32 result = (expm1_reduced(reduced.r) + 1.0f) * power_of_two(reduced.n);
  return x < -86.0f ? F32{} : result;
#endif
}

// 1/(1 + e) for e ≥ 0; may be 0 where it is below 2⁻¹²⁶. NaN stays.
inline F32 one_over_one_plus(F32 e) {
#if defined(DSJS_ISA_AVX512)
  // 14 digits and a step of Newton's: a division takes as long as the exponential before it.
  const __m512 sum = __m512(1.0f + e);
  const __m512 near = _mm512_rcp14_ps(sum);
  const __m512 value = _mm512_fmadd_ps(_mm512_fnmadd_ps(sum, near, _mm512_set1_ps(1)), near, near);
  return e > 0x1p126f ? F32{} : F32(value);
#else
  return 1.0f / (1.0f + e);
#endif
}

// σ(x) = 1/(1 + e⁻ˣ) and 1 − σ(x), both with a small relative error: 4 ulp.
struct Sigmoid {
  F32 value;
  F32 complement;
};

inline Sigmoid sigmoid(F32 x) {
  const F32 e = exp(-x);
  const F32 value = one_over_one_plus(e);
  // Where e⁻ˣ overflows, value is 0 and the product would be NaN.
  return {value, x < -80.0f ? splat(1.0f) : e * value};
}

// The standard normal distribution function Φ(x) and e^(−x²/2).
struct Normal {
  F32 cdf;
  F32 gauss;
};

// Φ(−t) = e^(−t²/2)·Q(t) for t = |x|, Q(t) = w·P(w), w = 1/(1 + 0.3t): a weighted minimax fit of
// erfcx(t/√2)/2 over t in [0, 14.5] (relative error 4e-9 before rounding). Φ(x) = 1 − Φ(−x) where
// x > 0. So Φ has a small relative error everywhere, also in the left tail, where (1 + erf)/2 has
// none of its digits: 6 ulp.
inline Normal normal(F32 x) {
  const F32 t = min(abs(x), splat(14.5f));
  const F32 square = t * t;
#if defined(DSJS_ISA_PORTABLE)
  // Without a fused multiply the error of t² comes from the upper half of t, whose square is exact.
  const F32 top = from_bits(bits(t) & ~0xfff);
  const F32 square_error = (top * top - square) + (t - top) * (t + top);
#else
  const F32 square_error = fma(t, t, -square);
#endif
  const F32 gauss = exp(-0.5f * square) * fma(square_error, splat(-0.5f), splat(1.0f));
  const F32 w = 1.0f / fma(t, splat(0.3f), splat(1.0f));
  F32 p = splat(-2.062346973e-02f);
  p = fma(p, w, splat(1.124356166e-01f));
  p = fma(p, w, splat(-2.282136083e-01f));
  p = fma(p, w, splat(1.917845458e-01f));
  p = fma(p, w, splat(-7.942350209e-02f));
  p = fma(p, w, splat(9.615683556e-02f));
  p = fma(p, w, splat(7.838964462e-02f));
  p = fma(p, w, splat(1.102354228e-01f));
  p = fma(p, w, splat(1.195718125e-01f));
  p = fma(p, w, splat(1.196866930e-01f));
  const F32 tail = p * w * gauss;
  return {x > 0.0f ? 1.0f - tail : tail, gauss};
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
