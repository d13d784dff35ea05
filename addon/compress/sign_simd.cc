// The loops of compress/sign_kernels.h, sixteen elements (two bytes of signs) at a time on every
// instruction set, so that the stripes of the sums are the same everywhere.
#include "compress/sign_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kGroup = 16;
constexpr size_t kVectors = kGroup / kLanes;

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

struct Squares {
  F64 low[kVectors] = {}, high[kVectors] = {};
  void add(size_t vector, F32 v) {
    const F64 a = low64(v), b = high64(v);
    low[vector] += a * a;
    high[vector] += b * b;
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

double compensate(const float* x, float* error, size_t count) {
  Squares squares;
  for (size_t first = 0; first < count; first += kGroup)
    each_vector(first, count, [&](size_t at, size_t vector, size_t rest) {
      const F32 v = load_some(error + at, rest) + load_some(x + at, rest);
      store_some(error + at, v, rest);
      squares.add(vector, v);
    });
  return squares.total();
}

// Elements whose sums over ranks are kept in registers at once: each rank's signs and scale are
// fetched once for all of them.
constexpr size_t kWide = 64;

inline uint64_t load_wide_signs(const uint8_t* p) {
  uint64_t signs = 0;
  for (size_t byte = 0; byte < kWide / 8; ++byte) signs |= uint64_t{p[byte]} << (8 * byte);
  return signs;
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
  size_t first = 0;
  for (; first + kWide <= count; first += kWide) {
    F32 sum[kWide / kLanes] = {};
    for (size_t r = 0; r < ranks; ++r) {
      const uint64_t signs = load_wide_signs(bits[r] + first / 8);
      const F32 scale = splat(scales[r]);
      for (size_t v = 0; v < kWide / kLanes; ++v)
        sum[v] = sum[v] + signed_scale(static_cast<uint32_t>(signs >> (v * kLanes)), scale);
    }
    for (size_t v = 0; v < kWide / kLanes; ++v) {
      float* at = error + first + v * kLanes;
      const F32 sent = load(at) + mean(sum[v]);
      store(at, sent);
      squares.add(v % kVectors, sent);
    }
  }
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
  for (size_t first = 0; first < count; first += kGroup) {
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
