// Gradients under a layout, by blocks of queries, for attention_simd.cc; the formulas are in
// backward.h. A block of queries is done with when its tiles are; the gradients of keys grow where
// they end up, if whole vectors fit there, and else in scratch memory.
#pragma once
#if defined(DSJS_ISA_AMX)
#include "attention/sparse_operands_amx.h"
#else
#include "attention/sparse_operands.h"
#endif
#include "kernels/row_math.h"

namespace dsjs::DSJS_ISA {
namespace {

struct SparseBackwardMemory {
  // scale·R·Q and dY, as rows and as operands, and the sums of dQ.
  float* queries;
  float* score_queries;
  float* sum_queries;
  float* dy;
  float* score_dy;
  float* sum_dy;
  float* dq;
  // Blocks of keys and values as operands.
  float* score_keys;
  float* sum_keys;
  float* score_values;
  // A tile: its keys and values as rows, probabilities, the gradients of scores, what dropout
  // multiplies by.
  float* keys;
  float* values;
  float* p;
  float* ds;
  float* factors;
  // One for each block of keys: whether its sums are begun.
  float* is_begun;
  // dK and dV, Sk rows each, unless they grow in place.
  float* sums;
  size_t size;
};

// The sums of a task that has all of them are the gradients, but for a rotation.
inline bool grows_in_place(const Attention& a) { return a.D == padded(a.D); }

inline SparseBackwardMemory sparse_backward_memory(const Attention& a, float* base) {
  const size_t Dp = padded(a.D), tile = kTileQueries * kTileKeys;
  Scratch scratch{base};
  SparseBackwardMemory m;
  for (float** rows : {&m.queries, &m.dy, &m.dq}) *rows = scratch.take(kTileQueries * Dp);
  for (float** rows : {&m.keys, &m.values}) *rows = scratch.take(kTileKeys * Dp);
  for (float** operand : {&m.score_queries, &m.score_dy})
    *operand = scratch.take(score_queries_memory(Dp));
  for (float** operand : {&m.sum_queries, &m.sum_dy})
    *operand = scratch.take(sum_queries_memory(Dp));
  for (float** operand : {&m.score_keys, &m.score_values})
    *operand = scratch.take(KeptBlocks::size(a, score_block_size(a)));
  m.sum_keys = scratch.take(KeptBlocks::size(a, sum_block_size(a)));
  m.p = scratch.take(tile);
  m.ds = scratch.take(tile);
  m.factors = scratch.take(a.dropout.rng ? tile : 0);
  m.is_begun = scratch.take(key_blocks(a));
  m.sums = scratch.take(grows_in_place(a) ? 0 : 2 * a.Sk * Dp);
  m.size = scratch.used;
  return m;
}

// dK and dV of adjacent keys from their sums, rows of Dp.
inline void unpack_keys(const Attention& a, const AttentionGradient& g, size_t sample,
                        size_t kv_head, BlockRange keys, const float* dk, const float* dv) {
  const size_t count = keys.end - keys.begin, Dp = padded(a.D);
  unpack_rows(dk, count, a.D, Dp, 1.0f, rotation_at(a, keys.begin),
              row_of(g.dk, sample, kv_head, keys.begin), g.dk.row);
  unpack_rows(dv, count, a.D, Dp, 1.0f, kNoRotation, row_of(g.dv, sample, kv_head, keys.begin),
              g.dv.row);
}

class SparseBackward {
 public:
  SparseBackward(const Attention& a, const AttentionGradient& gradient, const BackwardTask& task,
                 float* scratch)
      : a_(a),
        g_(gradient),
        task_(task),
        m_(sparse_backward_memory(a, scratch)),
        Dp_(padded(a.D)),
        score_keys_(a, m_.score_keys, score_block_size(a)),
        sum_keys_(a, m_.sum_keys, sum_block_size(a)),
        score_values_(a, m_.score_values, score_block_size(a)) {
    for (size_t block = 0; block < key_blocks(a); ++block) m_.is_begun[block] = 0;
    if (!task.sums && grows_in_place(a)) {
      dk_ = {row_of(g_.dk, task.sample, task.kv_head, 0), 0, 0, g_.dk.row};
      dv_ = {row_of(g_.dv, task.sample, task.kv_head, 0), 0, 0, g_.dv.row};
    } else {
      float* sums = task.sums ? task.sums : m_.sums;
      dk_ = {sums, 0, 0, Dp_};
      dv_ = {sums + a.Sk * Dp_, 0, 0, Dp_};
    }
  }

  void run() {
    const size_t group = a_.H / a_.Hkv;
    for (size_t i = 0; i < group; ++i) {
      const size_t head = task_.kv_head * group + i;
      for (size_t block = task_.begin; block < task_.end; ++block) {
        const auto [begin, end] = query_range(a_, block);
        if (block + 1 < task_.end) fetch(head, block + 1);
        for (size_t query = begin; query < end; query += kTileQueries)
          differentiate(head, block, query,
                        end - query < kTileQueries ? end - query : kTileQueries);
      }
    }
    for (size_t block = 0; block < key_blocks(a_); ++block)
      finish_keys(key_range(a_, block), block);
  }

 private:
  // All that `rows` queries of one block give.
  void differentiate(size_t head, size_t block, size_t query, size_t rows) {
    const size_t b = task_.sample;
    pack_rows(row_of(a_.q, b, head, query), a_.q.row, rows, a_.D, Dp_, a_.scale,
              rotation_at(a_, query), m_.queries);
    HeadRows dy{row_of(g_.dy, b, head, query), 0, 0, g_.dy.row};
    if (!reads_in_place(a_, dy, false)) {
      pack_rows(dy.data, dy.row, rows, a_.D, Dp_, 1.0f, kNoRotation, m_.dy);
      dy = {m_.dy, 0, 0, Dp_};
    }
    const HeadRows queries{m_.queries, 0, 0, Dp_};
    score_queries_ = score_queries(queries, rows, a_.D, m_.score_queries);
    sum_queries_ = sum_queries(queries, rows, a_.D, m_.sum_queries);
    sum_dy_ = sum_queries(dy, rows, a_.D, m_.sum_dy);
    const ScoreQueries score_dy = score_queries(dy, rows, a_.D, m_.score_dy);
    const Blocks blocks = keys_of(a_, head, block);
    begin_queries(head, block, query, rows);
    if (!fits_tile(a_, blocks)) read_along(head, query, rows);

    SparseTile t{b, head, query, rows, {}, 0, 0, 0};
    for (size_t i = 0; i < blocks.count;) {
      const Start start = i > 0 ? Start::kAdd : Start::kZero;
      i = fill_tile(a_, blocks, i, t);
      const TileRows keys = rows_of(a_, t, a_.k, a_.cos != nullptr, Dp_, m_.keys);
      const TileRows values = rows_of(a_, t, a_.v, false, Dp_, m_.values);
      score(t, keys);
      multiply_queries(a_, t, score_keys(a_, t, values, score_values_), score_dy, Dp_, m_.ds,
                       ahead_);
      hide(a_, t, m_.ds, 0);
      weigh(t);
      if (fits_tile(a_, blocks)) sum_along(t);
      differentiate_scores(t);
      for (float* tile : {m_.p, m_.ds}) clear_unseen(a_, t, tile);
      for (size_t piece = 0; piece < t.count; ++piece) add_to_keys(t, t.pieces[piece]);
      add_keys(a_, t, m_.ds, sum_keys(a_, t, keys, sum_keys_), Dp_, m_.dq, start, nullptr, ahead_);
    }
    if (blocks.count == 0)
      for (size_t e = 0; e < kTileQueries * Dp_; ++e) m_.dq[e] = 0;
    unpack_rows(sums_as_rows(m_.dq, rows, Dp_, m_.queries), rows, a_.D, Dp_, a_.scale,
                rotation_at(a_, query), row_of(g_.dq, b, head, query), g_.dq.row);
  }

  // shift and weight of the queries.
  void begin_queries(size_t head, size_t block, size_t query, size_t rows) {
    const size_t b = task_.sample;
    const float* lse = g_.lse + (b * a_.H + head) * a_.Sq + query;
    bool is_large = false;
    for (size_t r = 0; r < padded(rows); ++r) {
      // A query that sees nothing has only scores −∞, and probabilities 0; so have lanes without
      // one.
      shift_[r] = r >= rows || lse[r] == -kInfinity ? kInfinity : lse[r];
      weight_[r] = 1;
      is_large = is_large || (shift_[r] != kInfinity && __builtin_fabsf(shift_[r]) >= kLargeLse);
    }
    if (is_large) restore_sums(head, block, query, rows);
  }

  void read_along(size_t head, size_t query, size_t rows) {
    for (size_t r = 0; r < padded(rows); ++r) along_[r] = 0;
    for (size_t r = 0; r < rows; ++r)
      along_[r] = static_cast<float>(row_sum(
          a_.D, [](F32 d, F32 y) { return d * y; }, row_of(g_.dy, task_.sample, head, query + r),
          row_of(g_.y, task_.sample, head, query + r)));
  }

  // The same from a tile of all the queries' keys, without reading Y: rowsum(dY∘Y) =
  // rowsum(P∘Z∘(dY·Vᵀ)).
  void sum_along(const SparseTile& t) {
    const size_t width = padded(t.rows);
    for (size_t r = 0; r < t.rows; r += kLanes) {
      F32 even{}, odd{};
      const size_t end = seen_columns(a_, t, r) * width + r;
      size_t at = r;
      for (; at + width < end; at += 2 * width) {
        even = fma(load(m_.p + at), load(m_.ds + at), even);
        odd = fma(load(m_.p + at + width), load(m_.ds + at + width), odd);
      }
      if (at < end) even = fma(load(m_.p + at), load(m_.ds + at), even);
      store(along_ + r, even + odd);
    }
  }

  void restore_sums(size_t head, size_t block, size_t query, size_t rows) {
    LaneSoftmax softmax;
    begin_softmax(softmax);
    const Blocks blocks = keys_of(a_, head, block);
    SparseTile t{task_.sample, head, query, rows, {}, 0, 0, 0};
    for (size_t i = 0; i < blocks.count;) {
      i = fill_tile(a_, blocks, i, t);
      score(t, rows_of(a_, t, a_.k, a_.cos != nullptr, Dp_, m_.keys));
      advance_softmax(a_, softmax, t, m_.p);
    }
    for (size_t r = 0; r < rows; ++r) {
      if (softmax.sum[r] == 0) continue;
      shift_[r] = softmax.top[r];
      weight_[r] = 1.0f / softmax.sum[r];
    }
  }

  // p = the scores of a tile.
  void score(const SparseTile& t, const TileRows& keys) {
    multiply_queries(a_, t, score_keys(a_, t, keys, score_keys_), score_queries_, Dp_, m_.p,
                     ahead_);
    add_bias(a_, t, m_.p);
    hide(a_, t, m_.p, -kInfinity);
  }

  // p: scores → P; ds: dY·Vᵀ → Z∘(dY·Vᵀ).
  void weigh(const SparseTile& t) {
    for_seen(t, [&](size_t r, size_t at, size_t end, size_t width) {
      const F32 shift = load(shift_ + r), weight = load(weight_ + r);
      for (; at < end; at += width) store(m_.p + at, weight * exp_weight(load(m_.p + at) - shift));
    });
    if (!a_.dropout.rng) return;
    fill_factors(a_, t, m_.factors);
    drop(t, m_.ds);
  }

  // ds: Z∘(dY·Vᵀ) → dS; p: P → P∘Z.
  void differentiate_scores(const SparseTile& t) {
    for_seen(t, [&](size_t r, size_t at, size_t end, size_t width) {
      const F32 along = load(along_ + r);
      for (; at < end; at += width) store(m_.ds + at, load(m_.p + at) * (load(m_.ds + at) - along));
    });
    if (a_.dropout.rng) drop(t, m_.p);
  }

  // Calls fn(row, begin, end, width) for strips of the tile that some query sees and each vector of
  // queries: its elements are at begin, begin + width, ... before end.
  template <class Fn>
  void for_seen(const SparseTile& t, Fn fn) {
    const size_t width = padded(t.rows);
    for (size_t i = 0; i < t.count; ++i)
      for_strips(a_, t, t.pieces[i], [&](size_t begin, size_t count, size_t first) {
        const size_t column = t.pieces[i].column + begin;
        for (size_t r = first; r < t.rows; r += kLanes)
          fn(r, column * width + r, (column + count) * width, width);
      });
  }

  void drop(const SparseTile& t, float* tile) {
    map(
        tile, 0, t.columns * padded(t.rows), [](F32 x, F32 f) { return x * f; }, tile, m_.factors);
  }

  void add_to_keys(const SparseTile& t, const KeyPiece& piece) {
    const Start start = m_.is_begun[piece.block] != 0 ? Start::kAdd : Start::kZero;
    // Later tiles of this block's queries find them begun.
    m_.is_begun[piece.block] = 1;
    add_queries(a_, t, piece, m_.p, sum_dy_, Dp_, dv_.data + piece.key * dv_.row, dv_.row, start,
                ahead_);
    add_queries(a_, t, piece, m_.ds, sum_queries_, Dp_, dk_.data + piece.key * dk_.row, dk_.row,
                start, ahead_);
  }

  void finish_keys(BlockRange keys, size_t block) {
    const size_t count = keys.end - keys.begin;
    float* dk = dk_.data + keys.begin * dk_.row;
    float* dv = dv_.data + keys.begin * dv_.row;
    if (m_.is_begun[block] == 0)
      for (size_t i = 0; i < count; ++i)
        for (size_t d = 0; d < Dp_; ++d) dk[i * dk_.row + d] = dv[i * dv_.row + d] = 0;
    if (task_.sums) return;
    if (!grows_in_place(a_))
      unpack_keys(a_, g_, task_.sample, task_.kv_head, keys, dk, dv);
    else if (a_.cos)
      rotate_back(keys, dk);
  }

  // dK in place. A row cannot be rotated onto itself.
  void rotate_back(BlockRange keys, float* dk) {
    const size_t count = keys.end - keys.begin;
    pack_rows(dk, dk_.row, count, a_.D, Dp_, 1.0f, kNoRotation, m_.keys);
    unpack_rows(m_.keys, count, a_.D, Dp_, 1.0f, rotation_at(a_, keys.begin), dk, dk_.row);
  }

  // What a block of queries will read and write, but for blocks of keys that the one before uses.
  void fetch(size_t head, size_t block) {
    ahead_.begin();
    const size_t b = task_.sample;
    const auto [query, end] = query_range(a_, block);
    const size_t count = end - query;
    ahead_.add(row_of(a_.q, b, head, query), a_.q.row, count, a_.D);
    ahead_.add(row_of(g_.dy, b, head, query), g_.dy.row, count, a_.D);
    if (!fits_tile(a_, keys_of(a_, head, block)))
      ahead_.add(row_of(g_.y, b, head, query), g_.y.row, count, a_.D);
    ahead_.add(row_of(g_.dq, b, head, query), g_.dq.row, count, a_.D);
    for_new_keys(a_, head, block, [&](size_t key, size_t keys) {
      ahead_.add(row_of(a_.k, b, task_.kv_head, key), a_.k.row, keys, a_.D);
      ahead_.add(row_of(a_.v, b, task_.kv_head, key), a_.v.row, keys, a_.D);
      ahead_.add(dk_.data + key * dk_.row, dk_.row, keys, a_.D);
      ahead_.add(dv_.data + key * dv_.row, dv_.row, keys, a_.D);
    });
  }

  const Attention& a_;
  const AttentionGradient& g_;
  const BackwardTask& task_;
  const SparseBackwardMemory m_;
  const size_t Dp_;
  KeptBlocks score_keys_, sum_keys_, score_values_;
  Multiplier multiplier_;
  FetchAhead ahead_;
  // Operands of the tile's queries.
  ScoreQueries score_queries_;
  SumQueries sum_queries_, sum_dy_;
  // Where the sums of dK and dV grow.
  HeadRowsOut dk_, dv_;
  // One for each query of the tile: a probability is weight·exp(score − shift); and rowsum(dY∘Y).
  float shift_[kTileQueries], weight_[kTileQueries], along_[kTileQueries];
};

}  // namespace
}  // namespace dsjs::DSJS_ISA
