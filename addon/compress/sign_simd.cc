// The loops of compress/sign_kernels.h, sixteen elements (two bytes of signs) at a time on every
// instruction set, so that the stripes of the sums are the same everywhere.
#include "compress/sign_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kGroup = 16;
constexpr size_t kVectors = kGroup / kLanes;

inline F64 widen(const float* p) {
  HalfF32 v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, F64);
}

// Bit l is 1 where lane l is not negative.
inline uint32_t not_negative(F32 v) {
#if defined(DSJS_ISA_AVX512)
  return _mm512_cmp_ps_mask(__m512(v), _mm512_setzero_ps(), _CMP_GE_OQ);
#elif defined(DSJS_ISA_AVX2)
  return static_cast<uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(__m256(v), _mm256_setzero_ps(), _CMP_GE_OQ)));
#else
  const I32 yes = v >= F32{};
  uint32_t result = 0;
  for (size_t lane = 0; lane < kLanes; ++lane)
    result |= static_cast<uint32_t>(yes[lane] & 1) << lane;
  return result;
#endif
}

// Lane l is scale where bit l is 1, else −scale.
inline F32 signed_scale(uint32_t signs, F32 scale) {
#if defined(DSJS_ISA_AVX512)
  return F32(_mm512_mask_blend_ps(static_cast<__mmask16>(signs), __m512(-scale), __m512(scale)));
#else
  I32 lane_bit{};
  for (size_t lane = 0; lane < kLanes; ++lane) lane_bit[lane] = 1 << lane;
  const I32 selected = (static_cast<int32_t>(signs) & lane_bit) == lane_bit;
  return selected ? scale : -scale;
#endif
}

// The signs of group g; of a last group that is not full, only the bytes that exist.
inline uint32_t load_signs(const uint8_t* bits, size_t first, size_t count) {
  const uint8_t* p = bits + first / 8;
  return count - first > 8 ? p[0] | static_cast<uint32_t>(p[1]) << 8 : p[0];
}

inline void store_signs(uint8_t* bits, size_t first, size_t count, uint32_t signs) {
  uint8_t* p = bits + first / 8;
  p[0] = static_cast<uint8_t>(signs);
  if (count - first > 8) p[1] = static_cast<uint8_t>(signs >> 8);
}

// Elements that the wide loops take at once.
constexpr size_t kWide = 64;

// Squares of fp32 are exact in fp64, so that it is the same whether a processor fuses them with the
// sum.
struct Squares {
  F64 low[kVectors] = {}, high[kVectors] = {};
  void add(size_t vector, F32 v) {
    const F64 a = low64(v), b = high64(v);
    low[vector] = fma64(a, a, low[vector]);
    high[vector] = fma64(b, b, high[vector]);
  }
  // Of kWide elements in memory, from which they are widened without taking vectors apart.
  void add_wide(const float* p) {
    for (size_t v = 0; v < kWide / kLanes; ++v, p += kLanes) {
      const F64 a = widen(p), b = widen(p + kLanes / 2);
      low[v % kVectors] = fma64(a, a, low[v % kVectors]);
      high[v % kVectors] = fma64(b, b, high[v % kVectors]);
    }
  }
  double total() const {
    double sum = 0;
    for (size_t vector = 0; vector < kVectors; ++vector) {
      for (size_t lane = 0; lane < kLanes / 2; ++lane) sum += low[vector][lane];
      for (size_t lane = 0; lane < kLanes / 2; ++lane) sum += high[vector][lane];
    }
    return sum;
  }
};

// body(first, vector, rest): the vector of elements [first, first + min(rest, kLanes)), which is
// number `vector` of its group; rest >= kLanes: all its lanes exist.
template <class Body>
inline void each_vector(size_t first, size_t count, Body body) {
  for (size_t vector = 0; vector < kVectors; ++vector) {
    const size_t at = first + vector * kLanes;
    if (at < count) body(at, vector, count - at);
  }
}

inline F32 load_some(const float* p, size_t rest) {
  return rest >= kLanes ? load(p) : load_part(p, rest);
}
inline void store_some(float* p, F32 v, size_t rest) {
  if (rest >= kLanes)
    store(p, v);
  else
    store_part(p, v, rest);
}
inline uint32_t lanes_that_exist(size_t rest) {
  return rest >= kLanes ? ~uint32_t{0} >> (32 - kLanes) : (1u << rest) - 1;
}

// A block is two passes over what lies in the nearest cache, and the next block lies right behind
// it: its lines are asked for meanwhile, or memory would rest in the second pass. The processor
// itself looks ahead to the end of a page only, which is the block's.
inline void ask_for(const float* p, size_t count) {
  constexpr size_t kLine = 16;
  for (size_t i = 0; i < count; i += kLine) __builtin_prefetch(p + i);
}

// In the wide loops squares are those of the elements before, which have been stored by then.
double compensate(const float* x, float* error, size_t count) {
  Squares squares;
  size_t first = 0;
  for (; first + kWide <= count; first += kWide) {
    ask_for(x + count + first, kWide);
    for (size_t v = 0; v < kWide / kLanes; ++v) {
      float* at = error + first + v * kLanes;
      store(at, load(at) + load(x + first + v * kLanes));
    }
    if (first > 0) squares.add_wide(error + first - kWide);
  }
  if (first > 0) squares.add_wide(error + first - kWide);
  for (; first < count; first += kGroup) {
    each_vector(first, count, [&](size_t at, size_t vector, size_t rest) {
      const F32 v = load_some(error + at, rest) + load_some(x + at, rest);
      store_some(error + at, v, rest);
      squares.add(vector, v);
    });
  }
  return squares.total();
}

inline uint64_t load_wide_signs(const uint8_t* p) {
  uint64_t signs = 0;
  for (size_t byte = 0; byte < kWide / 8; ++byte) signs |= uint64_t{p[byte]} << (8 * byte);
  return signs;
}
inline void store_wide_signs(uint8_t* p, uint64_t signs) {
  for (size_t byte = 0; byte < kWide / 8; ++byte)
    p[byte] = static_cast<uint8_t>(signs >> (8 * byte));
}

// So many ranks' signs of an element make a pattern, bit r for rank r, which is looked up.
constexpr size_t kTabled = 4;
constexpr size_t kPatterns = size_t{1} << kTabled;

// Of elements [8·byte, 8·byte + kWide), one pattern a byte.
inline void find_patterns(const uint8_t* const* bits, size_t tabled, size_t byte,
                          uint8_t (&patterns)[kWide]) {
#if defined(DSJS_ISA_AVX512)
  __m512i found = _mm512_setzero_si512();
  for (size_t r = 0; r < tabled; ++r) {
    const uint64_t signs = load_wide_signs(bits[r] + byte);
    found = _mm512_mask_add_epi8(found, signs, found, _mm512_set1_epi8(static_cast<char>(1 << r)));
  }
  _mm512_storeu_si512(patterns, found);
#elif defined(DSJS_ISA_AVX2)
  // Byte i of the 32 comes to have its own bit of byte i / 8.
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i own = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  for (size_t half = 0; half < kWide / 32; ++half) {
    __m256i found = _mm256_setzero_si256();
    for (size_t r = 0; r < tabled; ++r) {
      int32_t signs;
      std::memcpy(&signs, bits[r] + byte + 4 * half, sizeof signs);
      const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(signs), spread);
      const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
      const __m256i rank = _mm256_set1_epi8(static_cast<char>(1 << r));
      found = _mm256_or_si256(found, _mm256_and_si256(is_set, rank));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(patterns + 32 * half), found);
  }
#elif defined(DSJS_ISA_NEON)
  const uint8x16_t own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  for (size_t part = 0; part < kWide / 16; ++part) {
    uint8x16_t found = vdupq_n_u8(0);
    for (size_t r = 0; r < tabled; ++r) {
      const uint8_t* p = bits[r] + byte + 2 * part;
      const uint8x16_t bytes = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
      const uint8x16_t rank = vdupq_n_u8(static_cast<uint8_t>(1 << r));
      found = vorrq_u8(found, vandq_u8(vtstq_u8(bytes, own), rank));
    }
    vst1q_u8(patterns + 16 * part, found);
  }
#else
  for (size_t i = 0; i < kWide; ++i) {
    uint8_t pattern = 0;
    for (size_t r = 0; r < tabled; ++r)
      pattern |= static_cast<uint8_t>((bits[r][byte + i / 8] >> (i % 8) & 1) << r);
    patterns[i] = pattern;
  }
#endif
}

// The entries of a table at kLanes patterns.
inline F32 look_up(const float (&table)[kPatterns], const uint8_t* patterns) {
#if defined(DSJS_ISA_AVX512)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(patterns));
  return F32(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(bytes), _mm512_loadu_ps(table)));
#elif defined(DSJS_ISA_AVX2)
  const __m256i index =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(patterns)));
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
  // Bit 3 chooses between the halves.
  return F32(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
#elif defined(DSJS_ISA_NEON)
  uint32_t four;
  std::memcpy(&four, patterns, sizeof four);
  const uint8x16_t each = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const uint8x16_t within = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  const uint8x16_t spread = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), each);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
  const uint8x16x4_t all = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32),  //
                             vld1q_u8(bytes + 48)}};
  return F32(vreinterpretq_f32_u8(vqtbl4q_u8(all, vaddq_u8(vshlq_n_u8(spread, 2), within))));
#else
  F32 found;
  for (size_t lane = 0; lane < kLanes; ++lane) found[lane] = table[patterns[lane]];
  return found;
#endif
}

// sum / ranks. A power of two has an exact reciprocal, and a product rounds as the quotient does.
class Mean {
 public:
  explicit Mean(size_t ranks)
      : exact_((ranks & (ranks - 1)) == 0),
        divisor_(splat(static_cast<float>(ranks))),
        reciprocal_(splat(1 / static_cast<float>(ranks))) {}
  F32 operator()(F32 sum) const { return exact_ ? sum * reciprocal_ : sum / divisor_; }

 private:
  bool exact_;
  F32 divisor_, reciprocal_;
};

double average(const uint8_t* const* bits, const float* scales, size_t ranks, float* error,
               size_t count) {
  Squares squares;
  const Mean mean(ranks);
  // Sums of the first ranks by pattern, added in their order as any element's; of all ranks, where
  // there are no more, their means.
  const size_t tabled = ranks < kTabled ? ranks : kTabled;
  alignas(64) float table[kPatterns];
  for (size_t v = 0; v < kPatterns / kLanes; ++v) {
    constexpr uint32_t kHave[kTabled] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    F32 sum{};
    for (size_t r = 0; r < tabled; ++r)
      sum = sum + signed_scale(kHave[r] >> (v * kLanes), splat(scales[r]));
    store(table + v * kLanes, tabled == ranks ? mean(sum) : sum);
  }
  size_t first = 0;
  for (; first + kWide <= count; first += kWide) {
    uint8_t patterns[kWide];
    find_patterns(bits, tabled, first / 8, patterns);
    F32 sum[kWide / kLanes];
    for (size_t v = 0; v < kWide / kLanes; ++v) sum[v] = look_up(table, patterns + v * kLanes);
    for (size_t r = tabled; r < ranks; ++r) {
      const uint64_t signs = load_wide_signs(bits[r] + first / 8);
      const F32 scale = splat(scales[r]);
      for (size_t v = 0; v < kWide / kLanes; ++v)
        sum[v] = sum[v] + signed_scale(static_cast<uint32_t>(signs >> (v * kLanes)), scale);
    }
    for (size_t v = 0; v < kWide / kLanes; ++v) {
      float* at = error + first + v * kLanes;
      store(at, load(at) + (tabled == ranks ? sum[v] : mean(sum[v])));
    }
    if (first > 0) squares.add_wide(error + first - kWide);
  }
  if (first > 0) squares.add_wide(error + first - kWide);
  for (; first < count; first += kGroup) {
    F32 sum[kVectors] = {};
    for (size_t r = 0; r < ranks; ++r) {
      const uint32_t signs = load_signs(bits[r], first, count);
      const F32 scale = splat(scales[r]);
      for (size_t vector = 0; vector < kVectors; ++vector)
        sum[vector] = sum[vector] + signed_scale(signs >> (vector * kLanes), scale);
    }
    each_vector(first, count, [&](size_t at, size_t vector, size_t rest) {
      F32 v = load_some(error + at, rest) + mean(sum[vector]);
      store_some(error + at, v, rest);
      if (rest < kLanes) v = load_part(error + at, rest);
      squares.add(vector, v);
    });
  }
  return squares.total();
}

void pack(float* error, float scale, uint8_t* bits, size_t count) {
  const F32 step = splat(scale);
  size_t first = 0;
  for (; first + kWide <= count; first += kWide) {
    ask_for(error + count + first, kWide);
    uint64_t signs = 0;
    for (size_t v = 0; v < kWide / kLanes; ++v) {
      float* at = error + first + v * kLanes;
      const F32 value = load(at);
      const uint32_t positive = not_negative(value);
      signs |= uint64_t{positive} << (v * kLanes);
      store(at, value - signed_scale(positive, step));
    }
    store_wide_signs(bits + first / 8, signs);
  }
  for (; first < count; first += kGroup) {
    uint32_t signs = 0;
    each_vector(first, count, [&](size_t at, size_t vector, size_t rest) {
      const F32 v = load_some(error + at, rest);
      const uint32_t positive = not_negative(v) & lanes_that_exist(rest);
      signs |= positive << (vector * kLanes);
      store_some(error + at, v - signed_scale(positive, step), rest);
    });
    store_signs(bits, first, count, signs);
  }
}

void unpack(const uint8_t* bits, float scale, float* y, size_t count) {
  const F32 step = splat(scale);
  for (size_t first = 0; first < count; first += kGroup) {
    const uint32_t signs = load_signs(bits, first, count);
    each_vector(first, count, [&](size_t at, size_t vector, size_t rest) {
      store_some(y + at, signed_scale(signs >> (vector * kLanes), step), rest);
    });
  }
}

}  // namespace

extern const SignKernels sign;
const SignKernels sign = {compensate, average, pack, unpack};

}  // namespace dsjs::DSJS_ISA
