// The blocks of a layout that some queries attend to, a tile of the scores at a time, for
// attention_simd.cc. A layout needs a block of keys few times, so nothing is kept of it: a tile's
// keys and values are read where they are, or copied for this tile where that is no good. Scores
// lie by key, tile[key][query]: then keys need no transposition, what belongs to a query is a lane,
// and a tile of 16 queries is as good as a wide one. (Dense attention transposes each key once and
// keeps all of them: forward.h.)
#pragma once
#include "attention/tile_scores.h"

namespace dsjs::DSJS_ISA {
namespace {

// Columns that not every query sees are worked on in strips of so many, from the first step of as
// many queries that sees some of them.
constexpr size_t kStep = 16;

// The keys of one block, from a column of the tile on.
struct KeyPiece {
  size_t block, key, count, column;
};

struct SparseTile {
  size_t sample, head;
  // Rows of the tile are padded(rows) floats long; lanes past the last query mean nothing.
  size_t query, rows;
  KeyPiece pieces[kTileKeys / kStep];
  size_t count, columns;
  // So many columns are seen by every query, a multiple of kStep.
  size_t plain;
};

// How many of the tile's queries come too early to see a key.
inline size_t blind_queries(const Attention& a, const SparseTile& t, size_t key) {
  const size_t first = key + a.Sq, seen = t.query + a.Sk;
  if (!a.causal || first <= seen) return 0;
  return first - seen < t.rows ? first - seen : t.rows;
}

inline size_t key_at(const SparseTile& t, size_t column) {
  size_t i = t.count - 1;
  while (t.pieces[i].column > column) --i;
  return t.pieces[i].key + (column - t.pieces[i].column);
}

// Makes the tile that begins with block `first` of the list; says where the next one begins.
inline size_t fill_tile(const Attention& a, const Blocks& blocks, size_t first, SparseTile& t) {
  t.count = t.columns = 0;
  size_t i = first;
  for (; i < blocks.count; ++i) {
    const size_t block = block_at(blocks, i);
    const auto [begin, end] = key_range(a, block);
    if (t.columns + (end - begin) > kTileKeys) break;
    t.pieces[t.count++] = {block, begin, end - begin, t.columns};
    t.columns += end - begin;
  }
  t.plain = t.columns;
  while (t.plain > 0 && blind_queries(a, t, key_at(t, t.plain - 1)) > 0)
    t.plain = (t.plain - 1) / kStep * kStep;
  return i;
}

// Whether one tile holds all keys that a block of queries attends to.
inline bool fits_tile(const Attention& a, const Blocks& blocks) {
  return blocks.count * key_block(a) <= kTileKeys;
}

// How many columns, which come first, some query of a step sees.
inline size_t seen_columns(const Attention& a, const SparseTile& t, size_t row) {
  const size_t end = (row / kStep + 1) * kStep, last = (end < t.rows ? end : t.rows) - 1;
  size_t seen = t.columns;
  while (seen > t.plain && blind_queries(a, t, key_at(t, seen - 1)) > last) --seen;
  return seen;
}

// Calls fn(begin, count, first) for strips of a piece that some query sees, none of them before
// `first`: the piece as a whole where all see it.
template <class Fn>
inline void for_strips(const Attention& a, const SparseTile& t, const KeyPiece& piece, Fn fn) {
  const size_t strip = piece.column + piece.count <= t.plain ? piece.count : kStep;
  for (size_t begin = 0; begin < piece.count; begin += strip) {
    const size_t first = blind_queries(a, t, piece.key + begin) / kStep * kStep;
    if (first < t.rows) fn(begin, piece.count - begin < strip ? piece.count - begin : strip, first);
  }
}

inline void add_bias(const Attention& a, const SparseTile& t, float* tile) {
  const ScoreBias& bias = a.bias;
  if (!bias.data) return;
  const float* corner =
      bias.data + t.sample * bias.batch + t.head * bias.head + t.query * bias.query;
  for (size_t c = 0; c < t.columns; ++c) {
    const float* from = corner + key_at(t, c) * bias.key;
    float* scores = tile + c * padded(t.rows);
    for (size_t r = 0; r < t.rows; ++r) scores[r] += from[r * bias.query];
  }
}

inline I32 lanes_before(size_t count) {
  I32 lane;
  for (size_t i = 0; i < kLanes; ++i) lane[i] = static_cast<int32_t>(i);
  return lane < static_cast<int32_t>(count);
}

// `value` for what a query does not see: keys after it, keys that the mask hides.
inline void hide(const Attention& a, const SparseTile& t, float* tile, float value) {
  const size_t width = padded(t.rows);
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    if (piece.column + piece.count <= t.plain) continue;
    for_strips(a, t, piece, [&](size_t begin, size_t count, size_t first) {
      for (size_t k = begin; k < begin + count; ++k) {
        const size_t blind = blind_queries(a, t, piece.key + k);
        float* scores = tile + (piece.column + k) * width;
        for (size_t r = first; r < blind; r += kLanes)
          store(scores + r, lanes_before(blind - r) ? splat(value) : load(scores + r));
      }
    });
  }
  if (!a.key_mask) return;
  for (size_t c = 0; c < t.columns; ++c)
    if (!a.key_mask[t.sample * a.Sk + key_at(t, c)])
      for (size_t r = 0; r < t.rows; ++r) tile[c * width + r] = value;
}

// What dropout multiplies the probabilities by.
inline void fill_factors(const Attention& a, const SparseTile& t, float* tile) {
  const size_t width = padded(t.rows);
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    for (size_t r = 0; r < t.rows; ++r)
      for (size_t begin = 0; begin < piece.count; begin += kKeepBlock) {
        float factors[kKeepBlock];
        keep_factors(a.dropout, a.dropout.rng[2 + t.sample], t.head, t.query + r, piece.key + begin,
                     factors);
        float* column = tile + (piece.column + begin) * width + r;
        for (size_t k = 0; k < kKeepBlock && begin + k < piece.count; ++k)
          column[k * width] = factors[k];
      }
  }
}

// Calls fn(key, count) for blocks of keys that a block of queries sees and the one before it does
// not, as long as they are few.
template <class Fn>
inline void for_new_keys(const Attention& a, size_t head, size_t block, Fn fn) {
  const Blocks before = keys_of(a, head, block - 1), blocks = keys_of(a, head, block);
  size_t at = 0, left = kTileKeys;
  for (size_t i = 0; i < blocks.count && left >= key_block(a); ++i) {
    while (at < before.count && block_at(before, at) < block_at(blocks, i)) ++at;
    if (at < before.count && block_at(before, at) == block_at(blocks, i)) continue;
    const auto [begin, end] = key_range(a, block_at(blocks, i));
    fn(begin, end - begin);
    left -= key_block(a);
  }
}

// A softmax in progress, a lane for each query: the largest score so far, the sum of exponentials
// relative to it, and what earlier sums and values are multiplied by when a tile comes.
struct LaneSoftmax {
  float top[kTileQueries], sum[kTileQueries], factor[kTileQueries];
};

inline void begin_softmax(LaneSoftmax& state) {
  for (size_t r = 0; r < kTileQueries; ++r) {
    state.top[r] = -kInfinity;
    state.sum[r] = 0;
  }
}

// The scores of the tile become exp(score − top). Three chains hide the latency of a maximum.
inline void advance_softmax(const Attention& a, LaneSoftmax& state, const SparseTile& t,
                            float* tile) {
  const size_t width = padded(t.rows);
  for (size_t r = 0; r < t.rows; r += kLanes) {
    const size_t seen = seen_columns(a, t, r);
    const F32 before = load(state.top + r);
    // Where a score is NaN it does not count here; its exponential shows it.
    F32 top0 = before, top1 = before, top2 = before;
    float* scores = tile + r;
    size_t c = 0;
    for (; c + 3 <= seen; c += 3) {
      top0 = max(load(scores + c * width), top0);
      top1 = max(load(scores + (c + 1) * width), top1);
      top2 = max(load(scores + (c + 2) * width), top2);
    }
    for (; c < seen; ++c) top0 = max(load(scores + c * width), top0);
    const F32 top = max(max(top0, top1), top2);
    // Of a query that has seen nothing yet every exponential is to be 0, not exp(−∞ + ∞).
    const F32 safe = top == -kInfinity ? F32{} : top;
    const F32 factor = exp_weight(before - safe);
    F32 sum{};
    for (c = 0; c < seen; ++c) {
      const F32 p = exp_weight(load(scores + c * width) - safe);
      store(scores + c * width, p);
      sum += p;
    }
    store(state.factor + r, factor);
    store(state.top + r, top);
    store(state.sum + r, fma(load(state.sum + r), factor, sum));
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
