// Vectors of one instruction set. Included only by `*_simd.cc` files, which are compiled once for
// each set with DSJS_ISA naming its namespace; everything here has internal linkage, so that no
// code compiled for one processor can stand in for another's.
//
// The types are the compilers' vector extensions (GCC, Clang): + − * / and comparisons work on them
// as on numbers, a comparison gives lanes of 0 or −1, and `mask ? a : b` selects. What the
// extensions lack is written with intrinsics below.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(DSJS_ISA_AVX512) || defined(DSJS_ISA_AVX2)
#include <immintrin.h>
#elif defined(DSJS_ISA_NEON)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dsjs::DSJS_ISA {
namespace {

#if defined(DSJS_ISA_AVX512)
constexpr size_t kLanes = 16;
#elif defined(DSJS_ISA_AVX2)
constexpr size_t kLanes = 8;
#else
constexpr size_t kLanes = 4;
#endif

#define DSJS_VECTOR(type, lanes) __attribute__((vector_size(sizeof(type) * (lanes)))) type
typedef DSJS_VECTOR(float, kLanes) F32;
typedef DSJS_VECTOR(int32_t, kLanes) I32;
typedef DSJS_VECTOR(uint32_t, kLanes) U32;
typedef DSJS_VECTOR(uint16_t, kLanes) U16;
// Half as many doubles: a vector of floats widens into two.
typedef DSJS_VECTOR(double, kLanes / 2) F64;
typedef DSJS_VECTOR(float, kLanes / 2) HalfF32;
#undef DSJS_VECTOR

// x − 0 is x for every x, also −0, and so no instruction; 0 + x would be one.
inline F32 splat(float value) { return value - F32{}; }
inline F64 splat64(double value) { return value - F64{}; }

// Memory need not be aligned.
inline F32 load(const float* p) {
  F32 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F32 v) { std::memcpy(p, &v, sizeof v); }

// A loaded vector that several instructions take. Compilers make the load a part of each of them,
// which asks for more loads than multiplications.
inline F32 in_register(F32 v) {
#if defined(DSJS_ISA_AVX512)
  asm("" : "+v"(v));
#elif defined(DSJS_ISA_AVX2)
  asm("" : "+x"(v));
#endif
  return v;
}
#if defined(DSJS_ISA_AVX2)
inline __m256i first_lanes(size_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
// The first `count` values, at most kLanes; the other lanes load as zero and are not stored.
inline F32 load_part(const float* p, size_t count) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_maskload_ps(p, first_lanes(count)));
#else
  F32 v{};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
#endif
}
inline void store_part(float* p, F32 v, size_t count) {
#if defined(DSJS_ISA_AVX512)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), __m512(v));
#elif defined(DSJS_ISA_AVX2)
  _mm256_maskstore_ps(p, first_lanes(count), __m256(v));
#else
  std::memcpy(p, &v, count * sizeof(float));
#endif
}

inline U16 load16(const uint16_t* p) {
  U16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store16(uint16_t* p, U16 v) { std::memcpy(p, &v, sizeof v); }
inline U16 load16_part(const uint16_t* p, size_t count) {
  U16 v{};
  std::memcpy(&v, p, count * sizeof(uint16_t));
  return v;
}
inline void store16_part(uint16_t* p, U16 v, size_t count) {
  std::memcpy(p, &v, count * sizeof(uint16_t));
}

inline I32 bits(F32 v) { return reinterpret_cast<I32>(v); }
inline F32 from_bits(I32 v) { return reinterpret_cast<F32>(v); }
inline F32 abs(F32 v) { return from_bits(bits(v) & 0x7fffffff); }
// Lanes where the value is neither infinite nor NaN.
inline I32 is_finite(F32 v) { return (bits(v) & 0x7f800000) != 0x7f800000; }

// a·b + c, in one rounding where the processor can, else in two.
inline F32 fma(F32 a, F32 b, F32 c) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(DSJS_ISA_NEON)
  return F32(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#else
  return a * b + c;
#endif
}

// The same of doubles.
inline F64 fma64(F64 a, F64 b, F64 c) {
#if defined(DSJS_ISA_AVX512)
  return F64(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
#elif defined(DSJS_ISA_AVX2)
  return F64(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
#elif defined(DSJS_ISA_NEON)
  return F64(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
#else
  return a * b + c;
#endif
}

inline F32 sqrt(F32 v) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_sqrt_ps(__m512(v)));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_sqrt_ps(__m256(v)));
#elif defined(DSJS_ISA_NEON)
  return F32(vsqrtq_f32(float32x4_t(v)));
#elif defined(__SSE2__)
  return F32(_mm_sqrt_ps(__m128(v)));
#else
  for (size_t i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// Where one operand is NaN, the second.
inline F32 max(F32 a, F32 b) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return a > b ? a : b;
#endif
}
inline F32 min(F32 a, F32 b) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_min_ps(__m512(a), __m512(b)));
#elif defined(DSJS_ISA_AVX2)
  return F32(_mm256_min_ps(__m256(a), __m256(b)));
#else
  return a < b ? a : b;
#endif
}

// Lanes 0 and 1 first, halving: the same order for every call.
inline float sum(F32 v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline double sum64(F64 v) {
  double total = 0;
  for (size_t i = 0; i < kLanes / 2; ++i) total += v[i];
  return total;
}

inline F64 low64(F32 v) {
  HalfF32 half;
  std::memcpy(&half, &v, sizeof half);
  return __builtin_convertvector(half, F64);
}
inline F64 high64(F32 v) {
  HalfF32 half;
  std::memcpy(&half, reinterpret_cast<const char*>(&v) + sizeof half, sizeof half);
  return __builtin_convertvector(half, F64);
}

// y[i] = fn(x[i]...) over [begin, end), a vector at a time; fn takes as many vectors as there are
// inputs. Lanes past the end hold zeros.
template <class Fn, class... Inputs>
inline void map(float* y, size_t begin, size_t end, Fn fn, const Inputs*... x) {
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) store(y + i, fn(load(x + i)...));
  if (i < end) store_part(y + i, fn(load_part(x + i, end - i)...), end - i);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
