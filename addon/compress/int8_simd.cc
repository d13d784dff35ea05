// The loops of compress/int8_kernels.h.
#include "compress/int8_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

typedef __attribute__((vector_size(kLanes))) int8_t I8;

// Adding and taking off 1.5 · 2²³ rounds to a whole number, ties to even.
constexpr float kRounder = 12582912.0f;

inline F32 load_some(const float* p, size_t rest) {
  return rest >= kLanes ? load(p) : load_part(p, rest);
}
inline void store_some(float* p, F32 v, size_t rest) {
  if (rest >= kLanes)
    store(p, v);
  else
    store_part(p, v, rest);
}
// The instructions, where there are any: of a vector's conversion compilers make one of each
// element.
inline I32 widen8(I8 v) {
#if defined(DSJS_ISA_AVX512)
  return I32(_mm512_cvtepi8_epi32(__m128i(v)));
#elif defined(DSJS_ISA_AVX2)
  int64_t eight;
  std::memcpy(&eight, &v, sizeof eight);
  return I32(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight)));
#elif defined(DSJS_ISA_NEON)
  int32_t four;
  std::memcpy(&four, &v, sizeof four);
  return I32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
#else
  return __builtin_convertvector(v, I32);
#endif
}
// The low byte of each lane.
inline I8 narrow8(I32 v) {
#if defined(DSJS_ISA_AVX512)
  return I8(_mm512_cvtepi32_epi8(__m512i(v)));
#elif defined(DSJS_ISA_AVX2)
  const __m256i low = _mm256_shuffle_epi8(
      __m256i(v), _mm256_set1_epi32(12 << 24 | 8 << 16 | 4 << 8));  // of each half, four times
  const __m256i eight = _mm256_permutevar8x32_epi32(low, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
  const int64_t bytes = _mm_cvtsi128_si64(_mm256_castsi256_si128(eight));
  I8 narrow;
  std::memcpy(&narrow, &bytes, sizeof narrow);
  return narrow;
#elif defined(DSJS_ISA_NEON)
  const int16x4_t half = vmovn_s32(int32x4_t(v));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(half, half))), 0);
  I8 narrow;
  std::memcpy(&narrow, &four, sizeof narrow);
  return narrow;
#else
  return __builtin_convertvector(v, I8);
#endif
}

inline F32 load8(const int8_t* p, size_t rest) {
  I8 v{};
  if (rest >= kLanes)
    std::memcpy(&v, p, sizeof v);
  else
    std::memcpy(&v, p, rest);
  return __builtin_convertvector(widen8(v), F32);
}

// body(i, rest) for every vector; rest >= kLanes: all its lanes exist.
template <class Body>
inline void each_vector(size_t count, Body body) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, count - i);
}

struct Peak {
  I32 largest{};
  void add(F32 v) {
    const I32 size = bits(v) & 0x7fffffff;
    largest = size > largest ? size : largest;
  }
  uint32_t value() const {
#if defined(DSJS_ISA_AVX512)
    return static_cast<uint32_t>(_mm512_reduce_max_epi32(__m512i(largest)));
#else
    int32_t most = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
    return static_cast<uint32_t>(most);
#endif
  }
};

uint32_t compensate(float* x, const float* error, size_t count) {
  Peak peak;
  each_vector(count, [&](size_t i, size_t rest) {
    const F32 v = load_some(x + i, rest) + load_some(error + i, rest);
    store_some(x + i, v, rest);
    peak.add(v);
  });
  return peak.value();
}

uint32_t peak(const float* x, size_t count) {
  Peak peak;
  each_vector(count, [&](size_t i, size_t rest) { peak.add(load_some(x + i, rest)); });
  return peak.value();
}

void quantise(const float* x, float inverse, int8_t* q, size_t count) {
  const F32 factor = splat(inverse), rounder = splat(kRounder);
  each_vector(count, [&](size_t i, size_t rest) {
    // The whole number is in the low bits of the sum.
    const I32 whole = bits(load_some(x + i, rest) * factor + rounder);
    const I8 narrow = narrow8(whole);
    if (rest >= kLanes)
      std::memcpy(q + i, &narrow, sizeof narrow);
    else
      std::memcpy(q + i, &narrow, rest);
  });
}

void decode(const int8_t* q, float scale, float* y, size_t count) {
  const F32 step = splat(scale);
  each_vector(count,
              [&](size_t i, size_t rest) { store_some(y + i, load8(q + i, rest) * step, rest); });
}

void accumulate(const int8_t* q, float scale, float* y, size_t count) {
  const F32 step = splat(scale);
  each_vector(count, [&](size_t i, size_t rest) {
    store_some(y + i, load_some(y + i, rest) + load8(q + i, rest) * step, rest);
  });
}

void residual(const float* x, const int8_t* q, float scale, float* y, size_t count) {
  const F32 step = splat(scale);
  each_vector(count, [&](size_t i, size_t rest) {
    store_some(y + i, load_some(x + i, rest) - load8(q + i, rest) * step, rest);
  });
}

// Loops that compilers turn into shuffles of whole vectors.
void pack4(const int8_t* q, uint8_t* packed, size_t count) {
  for (size_t i = 0; i < count / 2; ++i)
    packed[i] = static_cast<uint8_t>((q[2 * i] & 15) | (q[2 * i + 1] & 15) << 4);
  if (count % 2 != 0) packed[count / 2] = static_cast<uint8_t>(q[count - 1] & 15);
}

void unpack4(const uint8_t* packed, int8_t* q, size_t count) {
  // Shifting right keeps the sign.
  for (size_t i = 0; i < count / 2; ++i) {
    q[2 * i] = static_cast<int8_t>(static_cast<int8_t>(packed[i] << 4) >> 4);
    q[2 * i + 1] = static_cast<int8_t>(static_cast<int8_t>(packed[i]) >> 4);
  }
  if (count % 2 != 0)
    q[count - 1] = static_cast<int8_t>(static_cast<int8_t>(packed[count / 2] << 4) >> 4);
}

}  // namespace

extern const Int8Kernels int8;
const Int8Kernels int8 = {compensate, peak, quantise, decode, accumulate, residual, pack4, unpack4};

}  // namespace dsjs::DSJS_ISA
