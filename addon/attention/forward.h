// Blocks of queries from their scores to their values, without a layout, for attention_simd.cc.
#pragma once
#include "attention/attention_kernels.h"
#include "attention/tile_scores.h"

namespace dsjs::DSJS_ISA {
namespace {

struct ForwardMemory {
  float* rows;       // packed rows on their way to operands
  float* keys;       // score keys of Sk rows
  float* values;     // value rows of each block of keys
  float* is_packed;  // one for each block of keys
  float* queries;    // score rows
  float* out;
  float* scores;
  size_t size;
};

inline ForwardMemory forward_memory(const Attention& a, float* base) {
  const size_t Dp = padded(a.D), blocks = key_blocks(a);
  Scratch scratch{base};
  ForwardMemory m;
  m.rows = scratch.take((kCopiesRows ? kTileKeys : kKeyPanel) * Dp);
  m.keys = scratch.take(score_keys_size(a.Sk, Dp));
  m.values = scratch.take(blocks * value_rows_size(kTileKeys, Dp));
  m.is_packed = scratch.take(blocks);
  m.queries = scratch.take(score_rows_size(kTileQueries, Dp));
  m.out = scratch.take(kTileQueries * Dp);
  m.scores = scratch.take(kTileQueries * kTileKeys);
  m.size = scratch.used;
  return m;
}

class Forward {
 public:
  Forward(const Attention& a, const AttentionResult& result, const ForwardTask& task,
          float* scratch)
      : a_(a), result_(result), task_(task), m_(forward_memory(a, scratch)), Dp_(padded(a.D)) {
    for (size_t i = 0; i < key_blocks(a); ++i) m_.is_packed[i] = 0;
  }

  void run() {
    const size_t blocks = query_blocks(a_);
    for (size_t unit = task_.begin; unit < task_.end; ++unit) {
      const size_t head = task_.kv_head * (a_.H / a_.Hkv) + unit / blocks;
      const size_t block = unit % blocks;
      const auto [begin, end] = query_range(a_, block);
      if (block + 1 < blocks && unit + 1 < task_.end) fetch(head, block + 1);
      attend(head, block, begin, end - begin);
    }
  }

 private:
  // Y and lse of a block, `rows` queries.
  void attend(size_t head, size_t block, size_t query, size_t rows) {
    float* packed = kCopiesRows ? m_.rows : m_.queries;
    pack_rows(row_of(a_.q, task_.sample, head, query), a_.q.row, rows, a_.D, Dp_, a_.scale,
              rotation_at(a_, query), packed);
    put_score_rows(packed, rows, Dp_, m_.queries);
    begin_softmax(softmax_);
    started_ = false;

    const Blocks blocks = keys_of(a_, head, block);
    for (size_t i = 0; i < blocks.count; ++i) {
      pack_keys(block_at(blocks, i));
      const auto [begin, end] = key_range(a_, block_at(blocks, i));
      advance(score_tile(a_, task_.sample, head, query, rows, begin, end - begin));
    }
    finish(head, query, rows);
  }

  // What a block of queries will read and write; of keys that are not packed yet, a tile's worth.
  void fetch(size_t head, size_t block) const {
    const size_t b = task_.sample;
    const auto [query, query_end] = query_range(a_, block);
    fetch_rows(row_of(a_.q, b, head, query), a_.q.row, query_end - query, a_.D);
    fetch_rows(row_of(result_.y, b, head, query), result_.y.row, query_end - query, a_.D);
    const Blocks blocks = keys_of(a_, head, block);
    for (size_t i = 0, fetched = 0; i < blocks.count && fetched < kTileKeys; ++i) {
      if (m_.is_packed[block_at(blocks, i)] != 0) continue;
      fetched += key_block(a_);
      const auto [key, key_end] = key_range(a_, block_at(blocks, i));
      fetch_rows(row_of(a_.k, b, task_.kv_head, key), a_.k.row, key_end - key, a_.D);
      fetch_rows(row_of(a_.v, b, task_.kv_head, key), a_.v.row, key_end - key, a_.D);
    }
  }

  void pack_keys(size_t block) {
    if (m_.is_packed[block] != 0) return;
    m_.is_packed[block] = 1;
    const auto [begin, end] = key_range(a_, block);
    float* const values = values_of(block);
    float* const rows = kCopiesRows ? m_.rows : values;
    pack_rows(row_of(a_.v, task_.sample, task_.kv_head, begin), a_.v.row, end - begin, a_.D, Dp_,
              1.0f, kNoRotation, rows);
    put_value_rows(rows, end - begin, Dp_, values);
    for (size_t key = begin; key < end; key += kKeyPanel) {
      const size_t count = end - key < kKeyPanel ? end - key : kKeyPanel;
      pack_rows(row_of(a_.k, task_.sample, task_.kv_head, key), a_.k.row, count, a_.D, Dp_, 1.0f,
                rotation_at(a_, key), m_.rows);
      put_score_keys(m_.rows, count, Dp_, m_.keys + score_keys_size(key, Dp_));
    }
  }

  float* values_of(size_t block) const {
    return m_.values + block * value_rows_size(kTileKeys, Dp_);
  }

  // One more tile of scores goes into the sums.
  void advance(const ScoreTile& t) {
    multiply_keys(t, m_.queries, m_.keys + score_keys_size(t.key, Dp_), a_.D, Dp_, m_.scores);
    add_bias(t, a_.bias, m_.scores);
    hide(t, a_, m_.scores);
    uint32_t widths[kTileQueries];
    for (size_t r = 0; r < t.rows; ++r) widths[r] = static_cast<uint32_t>(strip_width(t, r));
    advance_softmax(softmax_, t.rows, widths, m_.scores);
    if (a_.dropout.rng) drop(t, a_, m_.scores);
    add_values(t, m_.scores, values_of(t.key / kTileKeys), Dp_, m_.out,
               started_ ? Start::kScale : Start::kZero, softmax_.factor);
    started_ = true;
  }

  void finish(size_t head, size_t query, size_t rows) {
    if (!started_)
      for (size_t i = 0; i < rows * Dp_; ++i) m_.out[i] = 0;
    for (size_t r = 0; r < rows; ++r)
      finish_query(a_, result_, task_.sample, head, query + r, softmax_.top[r],
                   sum(load(softmax_.sums + r * kLanes)), m_.out + r * Dp_);
  }

  const Attention& a_;
  const AttentionResult& result_;
  const ForwardTask& task_;
  const ForwardMemory m_;
  const size_t Dp_;
  Multiplier multiplier_;
  RunningSoftmax softmax_;
  // Whether `out` holds sums of the present queries.
  bool started_;
};

}  // namespace
}  // namespace dsjs::DSJS_ISA
