// What happens to a tile of the scores: what is added and hidden, the softmax; for
// attention_simd.cc.
#pragma once
#if defined(DSJS_ISA_AMX)
#include "attention/operands_amx.h"
#else
#include "attention/operands.h"
#endif
#include "kernels/dropout_mask.h"
#include "kernels/vector_math.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

inline void add_bias(const ScoreTile& t, const ScoreBias& bias, float* scores) {
  if (!bias.data) return;
  const float* corner = bias.data + t.sample * bias.batch + t.head * bias.head +
                        t.query * bias.query + t.key * bias.key;
  for (size_t r = 0; r < t.rows; ++r) {
    const float* from = corner + r * bias.query;
    float* row = scores + r * kTileKeys;
    const size_t seen = seen_columns(t, r);
    if (bias.key) {
      map(
          row, 0, seen, [](F32 s, F32 b) { return s + b; }, row, from);
    } else {
      const F32 b = splat(*from);
      map(
          row, 0, seen, [b](F32 s) { return s + b; }, row);
    }
  }
}

// −∞ for what a query does not see: keys after it, keys that the mask hides, columns past the end.
inline void hide(const ScoreTile& t, const Attention& a, float* scores) {
  const uint8_t* mask = a.key_mask ? a.key_mask + t.sample * a.Sk + t.key : nullptr;
  if (!mask && strip_columns(t.columns) == t.columns && !crosses_diagonal(t)) return;
  float limit[kTileKeys];
  for (size_t c = 0; mask && c < t.columns; ++c) limit[c] = mask[c] ? kInfinity : -kInfinity;
  for (size_t r = 0; r < t.rows; ++r) {
    float* row = scores + r * kTileKeys;
    const size_t seen = seen_columns(t, r), width = strip_width(t, r);
    // A hidden score is −∞ even where it was NaN.
    if (mask)
      map(
          row, 0, seen, [](F32 s, F32 l) { return l > 0.0f ? s : l; }, row, limit);
    for (size_t c = seen; c < width; ++c) row[c] = -kInfinity;
  }
}

// What dropout multiplies the probabilities of a row of the tile by.
struct RowFactors {
  float values[kTileKeys + kKeepBlock];
};
inline const float* drop_factors(const ScoreTile& t, const Attention& a, size_t row,
                                 RowFactors& factors) {
  for (size_t c = 0; c < t.columns; c += kKeepBlock)
    keep_factors(a.dropout, a.dropout.rng[2 + t.sample], t.head, t.query + row, t.key + c,
                 factors.values + c);
  return factors.values;
}

inline void drop(const ScoreTile& t, const Attention& a, float* tile) {
  RowFactors factors;
  for (size_t r = 0; r < t.rows; ++r)
    map(
        tile + r * kTileKeys, 0, t.columns, [](F32 p, F32 f) { return p * f; },
        tile + r * kTileKeys, drop_factors(t, a, r, factors));
}

// eˣ for the logarithm x of a probability: 2 ulp and |x|·2⁻²⁴; below 2⁻¹²⁵ it may be 0. NaN stays.
// With x = n·ln2 + r it is 2ⁿ times 1 + r + r²·P(r), P of degree 3: a minimax fit on |r| ≤ ln2/2 of
// relative error 1.1e-7. An error of n·ln2 matters little, since eˣ is small where n is large.
inline F32 exp_weight(F32 x) {
  const F32 magic = splat(0x1.8p23f);
  const F32 shifted = fma(x, splat(1.44269504f), magic);
  const F32 n = shifted - magic;
  const F32 r = fma(n, splat(-0.693147182f), x);
  F32 p = splat(0.00831252523f);
  p = fma(p, r, splat(0.0418901145f));
  p = fma(p, r, splat(0.166671142f));
  p = fma(p, r, splat(0.499992311f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  // Small results become 0 without being computed: as subnormal numbers they would be slow.
#if defined(DSJS_ISA_AVX512)
  const __mmask16 normal = _mm512_cmp_ps_mask(__m512(x), __m512(splat(-86.0f)), _CMP_NLT_UQ);
  return F32(_mm512_maskz_scalef_ps(normal, __m512(p), __m512(n)));
#else
  const F32 result = p * power_of_two(bits(shifted) - bits(magic));
  return x < -86.0f ? F32{} : result;
#endif
}

inline float largest_lane(F32 v) {
#if defined(DSJS_ISA_AVX512)
  return _mm512_reduce_max_ps(__m512(v));
#else
  float lanes[kLanes];
  store(lanes, v);
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i)
      lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
#endif
}

// An lse so large has lost digits of the sum's logarithm to the largest score: where a row has only
// scores near the lowest number, as a mask makes them, all. Backward computes both again.
constexpr float kLargeLse = 8192;

// Y and lse of a query, from the largest of its scores, the sum of exponentials relative to it, and
// the values that these weigh, summed up.
inline void finish_query(const Attention& a, const AttentionResult& result, size_t sample,
                         size_t head, size_t query, float top, float total, const float* values) {
  result.lse[(sample * a.H + head) * a.Sq + query] =
      total == 0 ? -kInfinity : top + __builtin_logf(total);
  convert_row(values, row_of(result.y, sample, head, query), a.D, total == 0 ? 0.0f : 1.0f / total,
              kNoRotation, 0, false);
}

// A softmax in progress: of each row the largest score so far, the sum of exponentials relative to
// it in kLanes parts, and what earlier sums and values are multiplied by when a tile comes.
struct RunningSoftmax {
  float top[kTileQueries];
  float factor[kTileQueries];
  float sums[kTileQueries * kLanes];
};

inline void begin_softmax(RunningSoftmax& state) {
  for (size_t r = 0; r < kTileQueries; ++r) state.top[r] = -kInfinity;
  for (float& sum : state.sums) sum = 0;
}

// The first widths[r] scores of row r, whole vectors, become exp(score − top).
inline void advance_softmax(RunningSoftmax& state, size_t rows, const uint32_t* widths,
                            float* scores) {
  for (size_t group = 0; group < rows; group += kLanes) {
    const size_t end = group + kLanes < rows ? group + kLanes : rows;
    float tops[kLanes] = {};
    for (size_t r = group; r < end; ++r) {
      const float* row = scores + r * kTileKeys;
      F32 top = splat(-kInfinity);
      // Where a score is NaN it does not count here; its exponential shows it.
      for (size_t c = 0; c < widths[r]; c += kLanes) top = max(load(row + c), top);
      tops[r - group] = largest_lane(top);
    }
    const F32 before = load(state.top + group);
    const F32 top = max(load(tops), before);
    // Of a row that has seen nothing yet every exponential is to be 0, not exp(−∞ + ∞).
    const F32 safe = top == -kInfinity ? F32{} : top;
    store(state.factor + group, exp_weight(before - safe));
    store(state.top + group, top);
    store(tops, safe);
    for (size_t r = group; r < end; ++r) {
      float* row = scores + r * kTileKeys;
      const F32 shift = splat(tops[r - group]);
      F32 sum{};
      for (size_t c = 0; c < widths[r]; c += kLanes) {
        const F32 p = exp_weight(load(row + c) - shift);
        store(row + c, p);
        sum += p;
      }
      float* sums = state.sums + r * kLanes;
      store(sums, fma(load(sums), splat(state.factor[r]), sum));
    }
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
