// Transposition of kLanes × kLanes values in registers, for `*_simd.cc` files.
#pragma once
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

#if defined(DSJS_ISA_AVX512)

// Pairs, then fours within each quarter of 128 bits, then quarters.
inline void transpose(F32 (&v)[kLanes]) {
  __m512 pairs[16], fours[16], eights[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(__m512(v[i]), __m512(v[i + 1]));
    pairs[i + 1] = _mm512_unpackhi_ps(__m512(v[i]), __m512(v[i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(pairs[i]), b = _mm512_castps_pd(pairs[i + 1]);
    const __m512d c = _mm512_castps_pd(pairs[i + 2]), d = _mm512_castps_pd(pairs[i + 3]);
    fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  // fours[4q + r], quarter s: column 4s + r of rows 4q to 4q + 3.
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    eights[r] = _mm512_shuffle_f32x4(fours[r], fours[4 + r], 0x88);
    eights[4 + r] = _mm512_shuffle_f32x4(fours[r], fours[4 + r], 0xdd);
    eights[8 + r] = _mm512_shuffle_f32x4(fours[8 + r], fours[12 + r], 0x88);
    eights[12 + r] = _mm512_shuffle_f32x4(fours[8 + r], fours[12 + r], 0xdd);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    v[r] = F32(_mm512_shuffle_f32x4(eights[r], eights[8 + r], 0x88));
    v[8 + r] = F32(_mm512_shuffle_f32x4(eights[r], eights[8 + r], 0xdd));
    v[4 + r] = F32(_mm512_shuffle_f32x4(eights[4 + r], eights[12 + r], 0x88));
    v[12 + r] = F32(_mm512_shuffle_f32x4(eights[4 + r], eights[12 + r], 0xdd));
  }
}

// Folds halves, then halves of what is left, of two vectors at a time: half the instructions of a
// transposition.
inline F32 sums_of(const F32 (&v)[kLanes]) {
  // Where what enters here comes out: in order.
  constexpr int kFrom[16] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};
  const auto in = [&](int i) { return __m512(v[kFrom[i]]); };
  __m512 halves[8], quarters[4], pairs[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(in(i), in(i + 8), 0x44),
                              _mm512_shuffle_f32x4(in(i), in(i + 8), 0xee));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    quarters[i] = _mm512_add_ps(_mm512_shuffle_f32x4(halves[i], halves[i + 4], 0x88),
                                _mm512_shuffle_f32x4(halves[i], halves[i + 4], 0xdd));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d a = _mm512_castps_pd(quarters[i]), b = _mm512_castps_pd(quarters[i + 2]);
    pairs[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  return F32(_mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88),
                           _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd)));
}

#elif defined(DSJS_ISA_AVX2)

inline void transpose(F32 (&v)[kLanes]) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(__m256(v[i]), __m256(v[i + 1]));
    pairs[i + 1] = _mm256_unpackhi_ps(__m256(v[i]), __m256(v[i + 1]));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256d a = _mm256_castps_pd(pairs[i]), b = _mm256_castps_pd(pairs[i + 1]);
    const __m256d c = _mm256_castps_pd(pairs[i + 2]), d = _mm256_castps_pd(pairs[i + 3]);
    fours[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    fours[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    fours[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    fours[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    v[r] = F32(_mm256_permute2f128_ps(fours[r], fours[4 + r], 0x20));
    v[4 + r] = F32(_mm256_permute2f128_ps(fours[r], fours[4 + r], 0x31));
  }
}

#elif defined(DSJS_ISA_NEON)

inline void transpose(F32 (&v)[kLanes]) {
  const float32x4x2_t low = vtrnq_f32(float32x4_t(v[0]), float32x4_t(v[1]));
  const float32x4x2_t high = vtrnq_f32(float32x4_t(v[2]), float32x4_t(v[3]));
  v[0] = F32(vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0])));
  v[1] = F32(vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1])));
  v[2] = F32(vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0])));
  v[3] = F32(vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1])));
}

#else

inline void transpose(F32 (&v)[kLanes]) {
  for (size_t i = 0; i < kLanes; ++i)
    for (size_t j = i + 1; j < kLanes; ++j) {
      const float value = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = value;
    }
}

#endif

#if !defined(DSJS_ISA_AVX512)

// Lane i: the lanes of v[i], added up as sum() does, bit for bit.
inline F32 sums_of(F32 (&v)[kLanes]) {
  transpose(v);
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

#endif

}  // namespace
}  // namespace dsjs::DSJS_ISA
