// The loop of compress/top_k_kernels.h. Few elements are candidates: most vectors have none.
#include "compress/top_k_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

// Bit l is 1 where lane l of a comparison is true.
inline uint32_t true_lanes(I32 yes) {
#if defined(DSJS_ISA_AVX512)
  return _mm512_movepi32_mask(__m512i(yes));
#elif defined(DSJS_ISA_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(__m256i(yes))));
#elif defined(DSJS_ISA_NEON)
  const uint32x4_t own = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(uint32x4_t(yes), own));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(__m128i(yes))));
#else
  uint32_t result = 0;
  for (size_t lane = 0; lane < kLanes; ++lane)
    result |= static_cast<uint32_t>(yes[lane] & 1) << lane;
  return result;
#endif
}

// Notes the lanes of v, the first of which has place `first`.
inline void note(F32 v, uint32_t first, uint32_t lanes, Candidates& to) {
#if defined(DSJS_ISA_AVX512)
  const auto mask = static_cast<__mmask16>(lanes);
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i places = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), count);
  _mm512_storeu_si512(to.places + to.found, _mm512_maskz_compress_epi32(mask, places));
  _mm512_storeu_ps(to.values + to.found, _mm512_maskz_compress_ps(mask, __m512(v)));
  to.found += static_cast<size_t>(__builtin_popcount(lanes));
#else
  for (; lanes != 0; lanes &= lanes - 1) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(lanes));
    to.places[to.found] = first + lane;
    to.values[to.found++] = v[lane];
  }
#endif
}

template <bool kAdds>
uint32_t collect(float* x, const float* error, size_t count, uint32_t first, uint32_t least,
                 Candidates& candidates) {
  Candidates to = candidates;
  const I32 limit = static_cast<int32_t>(least) - I32{};
  I32 largest{};
  const auto look = [&](F32 v, size_t i, uint32_t lanes) {
    const I32 size = bits(v) & 0x7fffffff;
    largest = size > largest ? size : largest;
    const uint32_t hits = true_lanes(size >= limit) & lanes;
    if (hits != 0) note(v, first + static_cast<uint32_t>(i), hits, to);
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    F32 v = load(x + i);
    if constexpr (kAdds) {
      v = v + load(error + i);
      store(x + i, v);
    }
    look(v, i, ~0u);
  }
  if (i < count) {
    const size_t rest = count - i;
    F32 v = load_part(x + i, rest);
    if constexpr (kAdds) {
      v = v + load_part(error + i, rest);
      store_part(x + i, v, rest);
    }
    look(v, i, (1u << rest) - 1);
  }
  candidates.found = to.found;
  int32_t most = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
  return static_cast<uint32_t>(most);
}

uint32_t collect_some(float* x, const float* error, size_t count, uint32_t first, uint32_t least,
                      Candidates& candidates) {
  return error ? collect<true>(x, error, count, first, least, candidates)
               : collect<false>(x, nullptr, count, first, least, candidates);
}

}  // namespace

extern const TopKKernels top_k;
const TopKKernels top_k = {collect_some};

}  // namespace dsjs::DSJS_ISA
