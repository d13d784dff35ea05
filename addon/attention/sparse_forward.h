// Blocks of queries under a layout, from their scores to their values, for attention_simd.cc.
#pragma once
#if defined(DSJS_ISA_AMX)
#include "attention/sparse_operands_amx.h"
#else
#include "attention/sparse_operands.h"
#endif

namespace dsjs::DSJS_ISA {
namespace {

struct SparseForwardMemory {
  // Queries: as rows and as an operand, and the sums of their values.
  float* queries;
  float* score_queries;
  float* out;
  // Blocks of keys and values as operands.
  float* score_keys;
  float* sum_values;
  // A tile: its keys and values as rows, its scores, what dropout multiplies them by.
  float* keys;
  float* values;
  float* scores;
  float* factors;
  size_t size;
};

inline SparseForwardMemory sparse_forward_memory(const Attention& a, float* base) {
  const size_t Dp = padded(a.D), tile = kTileQueries * kTileKeys;
  Scratch scratch{base};
  SparseForwardMemory m;
  m.queries = scratch.take(kTileQueries * Dp);
  m.score_queries = scratch.take(score_queries_memory(Dp));
  m.out = scratch.take(kTileQueries * Dp);
  m.score_keys = scratch.take(KeptBlocks::size(a, score_block_size(a)));
  m.sum_values = scratch.take(KeptBlocks::size(a, sum_block_size(a)));
  m.keys = scratch.take(kTileKeys * Dp);
  m.values = scratch.take(kTileKeys * Dp);
  m.scores = scratch.take(tile);
  m.factors = scratch.take(a.dropout.rng ? tile : 0);
  m.size = scratch.used;
  return m;
}

class SparseForward {
 public:
  SparseForward(const Attention& a, const AttentionResult& result, const ForwardTask& task,
                float* scratch)
      : a_(a),
        result_(result),
        task_(task),
        m_(sparse_forward_memory(a, scratch)),
        Dp_(padded(a.D)),
        score_keys_(a, m_.score_keys, score_block_size(a)),
        sum_values_(a, m_.sum_values, sum_block_size(a)) {}

  void run() {
    const size_t blocks = query_blocks(a_);
    for (size_t unit = task_.begin; unit < task_.end; ++unit) {
      const size_t head = task_.kv_head * (a_.H / a_.Hkv) + unit / blocks;
      const size_t block = unit % blocks;
      const auto [begin, end] = query_range(a_, block);
      if (block + 1 < blocks && unit + 1 < task_.end) fetch(head, block + 1);
      for (size_t query = begin; query < end; query += kTileQueries)
        attend(head, block, query, end - query < kTileQueries ? end - query : kTileQueries);
    }
  }

 private:
  // Y and lse of `rows` queries of one block.
  void attend(size_t head, size_t block, size_t query, size_t rows) {
    pack_rows(row_of(a_.q, task_.sample, head, query), a_.q.row, rows, a_.D, Dp_, a_.scale,
              rotation_at(a_, query), m_.queries);
    const ScoreQueries queries =
        score_queries({m_.queries, 0, 0, Dp_}, rows, a_.D, m_.score_queries);
    begin_softmax(softmax_);
    const Blocks blocks = keys_of(a_, head, block);
    SparseTile t{task_.sample, head, query, rows, {}, 0, 0, 0};
    for (size_t i = 0; i < blocks.count;) {
      const Start start = i > 0 ? Start::kScale : Start::kZero;
      i = fill_tile(a_, blocks, i, t);
      const TileRows keys = rows_of(a_, t, a_.k, a_.cos != nullptr, Dp_, m_.keys);
      const TileRows values = rows_of(a_, t, a_.v, false, Dp_, m_.values);
      multiply_queries(a_, t, score_keys(a_, t, keys, score_keys_), queries, Dp_, m_.scores,
                       ahead_);
      add_bias(a_, t, m_.scores);
      hide(a_, t, m_.scores, -kInfinity);
      advance_softmax(a_, softmax_, t, m_.scores);
      if (a_.dropout.rng) drop(t);
      clear_unseen(a_, t, m_.scores);
      add_keys(a_, t, m_.scores, sum_keys(a_, t, values, sum_values_), Dp_, m_.out, start,
               softmax_.factor, ahead_);
    }
    if (blocks.count == 0)
      for (size_t e = 0; e < kTileQueries * Dp_; ++e) m_.out[e] = 0;
    const float* sums = sums_as_rows(m_.out, rows, Dp_, m_.queries);
    for (size_t r = 0; r < rows; ++r)
      finish_query(a_, result_, task_.sample, head, query + r, softmax_.top[r], softmax_.sum[r],
                   sums + r * Dp_);
  }

  void drop(const SparseTile& t) {
    fill_factors(a_, t, m_.factors);
    map(
        m_.scores, 0, t.columns * padded(t.rows), [](F32 p, F32 f) { return p * f; }, m_.scores,
        m_.factors);
  }

  // What a block of queries will read and write, but for blocks of keys that the one before reads.
  void fetch(size_t head, size_t block) {
    ahead_.begin();
    const size_t b = task_.sample;
    const auto [query, end] = query_range(a_, block);
    ahead_.add(row_of(a_.q, b, head, query), a_.q.row, end - query, a_.D);
    ahead_.add(row_of(result_.y, b, head, query), result_.y.row, end - query, a_.D);
    for_new_keys(a_, head, block, [&](size_t key, size_t count) {
      ahead_.add(row_of(a_.k, b, task_.kv_head, key), a_.k.row, count, a_.D);
      ahead_.add(row_of(a_.v, b, task_.kv_head, key), a_.v.row, count, a_.D);
    });
  }

  const Attention& a_;
  const AttentionResult& result_;
  const ForwardTask& task_;
  const SparseForwardMemory m_;
  const size_t Dp_;
  KeptBlocks score_keys_, sum_values_;
  Multiplier multiplier_;
  FetchAhead ahead_;
  LaneSoftmax softmax_;
};

}  // namespace
}  // namespace dsjs::DSJS_ISA
