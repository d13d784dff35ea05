// 16-bit lanes to fp32 and back, for `*_simd.cc` files. Rounding as core/half.h says.
#pragma once
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

inline F32 widen_bf16(U16 v) {
  return reinterpret_cast<F32>(__builtin_convertvector(v, U32) << 16);
}

// Adding 0x7fff, and one more where the kept part is odd, carries exactly when nearest-even rounds
// up.
inline U16 narrow_bf16(F32 v) {
  const U32 raw = reinterpret_cast<U32>(v);
  const U32 rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
  const U32 quiet_nan = (raw >> 16) | 0x40;
  return __builtin_convertvector((raw & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded, U16);
}

inline F32 widen_fp16(U16 v) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_cvtph_ps(__m256i(v)));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_cvtph_ps(__m128i(v)));
#elif defined(DSJS_ISA_NEON)
  return F32(vcvt_f32_f16(float16x4_t(v)));
#else
  // Scaling by 2^112 moves the exponent from bias 15 to bias 127 and normalises subnormals; what
  // was infinity or NaN gets the top exponent.
  const U32 wide = __builtin_convertvector(v, U32);
  const U32 magnitude = (wide & 0x7fff) << 13;
  const F32 scaled = reinterpret_cast<F32>(magnitude) * 0x1p112f;
  const U32 special = (magnitude | 0x7f800000) | ((wide & 0x3ff) != 0 ? U32{} + 0x400000 : U32{});
  const U32 result = (wide & 0x7c00) == 0x7c00 ? special : reinterpret_cast<U32>(scaled);
  return reinterpret_cast<F32>(result | ((wide & 0x8000) << 16));
#endif
}

inline U16 narrow_fp16(F32 v) {
#if defined(DSJS_ISA_AVX512)
  return U16(_mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(DSJS_ISA_AVX2)
  return U16(_mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(DSJS_ISA_NEON)
  return U16(vcvt_f16_f32(float32x4_t(v)));
#else
  const U32 raw = reinterpret_cast<U32>(v);
  const U32 magnitude = raw & 0x7fffffff;
  // From 2^-14 up: rebias the exponent, round the 13 dropped bits to nearest even as in
  // narrow_bf16.
  const U32 normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Below: adding 0.5 makes the processor round to multiples of 2^-24, the subnormal step.
  const F32 shifted = reinterpret_cast<F32>(magnitude) + 0.5f;
  const U32 subnormal = reinterpret_cast<U32>(shifted) - 0x3f000000;
  U32 result = magnitude < (113u << 23) ? subnormal : normal;
  // 65520 and more round to infinity.
  result = magnitude >= 0x477ff000 ? U32{} + 0x7c00 : result;
  result = magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >> 13) & 0x3ff) : result;
  return __builtin_convertvector(result | ((raw >> 16) & 0x8000), U16);
#endif
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
