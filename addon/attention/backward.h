// Gradients of queries, keys and values from blocks of keys, without a layout, for
// attention_simd.cc. With P the probabilities, Z what dropout multiplies them by, and ∘ element by
// element:
//   dV = (P∘Z)ᵀ·dY,  dS = P∘(Z∘(dY·Vᵀ) − rowsum(dY∘Y)),  dQ = scale·dS·K,  dK = scale·dSᵀ·Q
// (Dao et al. 2022, arXiv 2205.14135, appendix B.2).
#pragma once
#include "attention/tile_scores.h"
#include "kernels/row_math.h"

namespace dsjs::DSJS_ISA {
namespace {

struct BackwardMemory {
  float* rows;  // packed rows on their way to operands
  // Each block of queries: scale·R·Q and dY as score rows and as value rows.
  float* queries;
  float* dy;
  float* query_values;
  float* dy_values;
  // Sq rows: the sums of dQ.
  float* dq;
  // One for each block of queries: whether something of it was computed yet.
  float* is_begun;
  // One for each query: a probability is weight·exp(score − shift); and rowsum(dY∘Y).
  float* shift;
  float* weight;
  float* along;
  // One block of keys: as value rows and as score keys, and its gradients.
  float* keys;
  float* score_keys;
  float* value_keys;
  float* dk;
  float* dv;
  // A tile: probabilities, and the gradients of scores.
  float* p;
  float* ds;
  size_t size;
};

inline BackwardMemory backward_memory(const Attention& a, float* base) {
  const size_t Dp = padded(a.D), blocks = query_blocks(a);
  const size_t as_rows = blocks * score_rows_size(kTileQueries, Dp);
  const size_t as_values = kCopiesRows ? blocks * value_rows_size(kTileQueries, Dp) : 0;
  Scratch scratch{base};
  BackwardMemory m;
  m.rows = scratch.take(kTileKeys * Dp);
  m.queries = scratch.take(as_rows);
  m.dy = scratch.take(as_rows);
  m.query_values = kCopiesRows ? scratch.take(as_values) : m.queries;
  m.dy_values = kCopiesRows ? scratch.take(as_values) : m.dy;
  m.dq = scratch.take(a.Sq * Dp);
  m.is_begun = scratch.take(blocks);
  m.shift = scratch.take(a.Sq);
  m.weight = scratch.take(a.Sq);
  m.along = scratch.take(a.Sq);
  m.keys = scratch.take(value_rows_size(kTileKeys, Dp));
  m.score_keys = scratch.take(score_keys_size(kTileKeys, Dp));
  m.value_keys = scratch.take(score_keys_size(kTileKeys, Dp));
  m.dk = scratch.take(kTileKeys * Dp);
  m.dv = scratch.take(kTileKeys * Dp);
  m.p = scratch.take(kTileQueries * kTileKeys);
  m.ds = scratch.take(kTileQueries * kTileKeys);
  m.size = scratch.used;
  return m;
}

class Backward {
 public:
  Backward(const Attention& a, const AttentionGradient& gradient, const BackwardTask& task,
           float* scratch)
      : a_(a), g_(gradient), task_(task), m_(backward_memory(a, scratch)), Dp_(padded(a.D)) {}

  void run() {
    const size_t group = a_.H / a_.Hkv;
    for (size_t i = 0; i < group; ++i) {
      const size_t head = task_.kv_head * group + i;
      dq_ = task_.sums ? task_.sums + i * a_.Sq * Dp_ : m_.dq;
      for (size_t block = 0; block < query_blocks(a_); ++block) m_.is_begun[block] = 0;
      for (size_t block = task_.begin; block < task_.end; ++block)
        run_block(head, block, i == 0, i + 1 == group);
      // Those that see no key.
      for (size_t block = 0; block < query_blocks(a_); ++block) {
        if (m_.is_begun[block] != 0) continue;
        clear_sums(block);
        finish_queries(head, block);
      }
    }
  }

 private:
  // Where a block of queries begins as score rows, and as value rows.
  size_t rows_of(size_t block) const { return block * score_rows_size(kTileQueries, Dp_); }
  size_t values_of(size_t block) const { return block * value_rows_size(kTileQueries, Dp_); }

  void clear_sums(size_t block) {
    const auto [begin, end] = query_range(a_, block);
    for (size_t e = begin * Dp_; e < end * Dp_; ++e) dq_[e] = 0;
  }

  // What comes before the first tile of a block of queries. Says whether the packed keys are gone.
  bool begin_queries(size_t head, size_t block) {
    m_.is_begun[block] = 1;
    const auto [begin, end] = query_range(a_, block);
    const size_t b = task_.sample;
    const size_t count = end - begin, rows_at = rows_of(block), values_at = values_of(block);
    float* rows = kCopiesRows ? m_.rows : m_.queries + rows_at;
    pack_rows(row_of(a_.q, b, head, begin), a_.q.row, count, a_.D, Dp_, a_.scale,
              rotation_at(a_, begin), rows);
    put_score_rows(rows, count, Dp_, m_.queries + rows_at);
    put_value_rows(rows, count, Dp_, m_.query_values + values_at);
    rows = kCopiesRows ? m_.rows : m_.dy + rows_at;
    pack_rows(row_of(g_.dy, b, head, begin), g_.dy.row, count, a_.D, Dp_, 1.0f, kNoRotation, rows);
    put_score_rows(rows, count, Dp_, m_.dy + rows_at);
    put_value_rows(rows, count, Dp_, m_.dy_values + values_at);
    clear_sums(block);
    const float* lse = g_.lse + (b * a_.H + head) * a_.Sq;
    for (size_t r = begin; r < end; ++r) {
      // A row that sees nothing has only scores −∞, and probabilities 0.
      m_.shift[r] = lse[r] == -kInfinity ? kInfinity : lse[r];
      m_.weight[r] = 1;
      const float* dy = row_of(g_.dy, b, head, r);
      const float* y = row_of(g_.y, b, head, r);
      m_.along[r] = static_cast<float>(row_sum(
          a_.D, [](F32 d, F32 v) { return d * v; }, dy, y));
    }
    return restore_sums(head, block, lse);
  }

  // dQ of a block whose sums are whole, unless other tasks have parts of them.
  void finish_queries(size_t head, size_t block) {
    if (task_.sums) return;
    const auto [begin, end] = query_range(a_, block);
    unpack_rows(dq_ + begin * Dp_, end - begin, a_.D, Dp_, a_.scale, rotation_at(a_, begin),
                row_of(g_.dq, task_.sample, head, begin), g_.dq.row);
  }

  // Rows of a large lse get its two parts again. Says whether there were any.
  bool restore_sums(size_t head, size_t block, const float* lse) {
    const auto [query, query_end] = query_range(a_, block);
    const size_t rows = query_end - query;
    bool is_large = false;
    for (size_t r = query; r < query_end; ++r)
      is_large = is_large || (__builtin_fabsf(lse[r]) >= kLargeLse && lse[r] != -kInfinity);
    if (!is_large) return false;
    RunningSoftmax softmax;
    begin_softmax(softmax);
    const Blocks blocks = keys_of(a_, head, block);
    for (size_t i = 0; i < blocks.count; ++i) {
      const auto [begin, end] = key_range(a_, block_at(blocks, i));
      pack_keys(begin, end);
      const ScoreTile t = score_tile(a_, task_.sample, head, query, rows, begin, end - begin);
      score(t);
      uint32_t widths[kTileQueries];
      for (size_t r = 0; r < rows; ++r) widths[r] = static_cast<uint32_t>(strip_width(t, r));
      advance_softmax(softmax, rows, widths, m_.p);
    }
    for (size_t r = 0; r < rows; ++r) {
      const float total = sum(load(softmax.sums + r * kLanes));
      if (total == 0) continue;
      m_.shift[query + r] = softmax.top[r];
      m_.weight[query + r] = 1.0f / total;
    }
    return true;
  }

  void pack_keys(size_t begin, size_t end) {
    float* const rows = kCopiesRows ? m_.rows : m_.keys;
    pack_rows(row_of(a_.k, task_.sample, task_.kv_head, begin), a_.k.row, end - begin, a_.D, Dp_,
              1.0f, rotation_at(a_, begin), rows);
    put_value_rows(rows, end - begin, Dp_, m_.keys);
    put_score_keys(rows, end - begin, Dp_, m_.score_keys);
  }

  // p = the scores of a tile whose keys are packed.
  void score(const ScoreTile& t) {
    multiply_keys(t, m_.queries + rows_of(t.query / kTileQueries), m_.score_keys, a_.D, Dp_, m_.p);
    add_bias(t, a_.bias, m_.p);
    hide(t, a_, m_.p);
  }

  // Adds a block's share to the gradients. The first query head of the group starts those of the
  // keys; the others find them, not rotated back, where the last one leaves them finished.
  void run_block(size_t head, size_t block, bool first, bool last) {
    const auto [begin, end] = key_range(a_, block);
    const size_t b = task_.sample, kv = task_.kv_head, count = end - begin;
    float* dk_rows = row_of(g_.dk, b, kv, begin);
    float* dv_rows = row_of(g_.dv, b, kv, begin);
    if (first) {
      fetch_rows(dk_rows, g_.dk.row, count, a_.D);
      fetch_rows(dv_rows, g_.dv.row, count, a_.D);
      for (size_t e = 0; e < count * Dp_; ++e) m_.dk[e] = m_.dv[e] = 0;
    } else {
      pack_rows(dk_rows, g_.dk.row, count, a_.D, Dp_, 1.0f, kNoRotation, m_.dk);
      pack_rows(dv_rows, g_.dv.row, count, a_.D, Dp_, 1.0f, kNoRotation, m_.dv);
    }
    const Blocks blocks = queries_of(a_, block);
    if (blocks.count > 0) {
      pack_keys(begin, end);
      pack_rows(row_of(a_.v, b, kv, begin), a_.v.row, count, a_.D, Dp_, 1.0f, kNoRotation, m_.rows);
      put_score_keys(m_.rows, count, Dp_, m_.value_keys);
    }
    for (size_t i = 0; i < blocks.count; ++i) {
      const size_t at = block_at(blocks, i);
      if (i + 1 < blocks.count)
        fetch_queries(head, block_at(blocks, i + 1));
      else
        fetch_keys(head, block + 1);
      if (m_.is_begun[at] == 0 && begin_queries(head, at)) pack_keys(begin, end);
      const BlockRange queries = query_range(a_, at);
      run_tile(score_tile(a_, b, head, queries.begin, queries.end - queries.begin, begin, count));
      if (keys_of(a_, head, at).count == block + 1) finish_queries(head, at);
    }
    unpack_rows(m_.dk, count, a_.D, Dp_, 1.0f, last ? rotation_at(a_, begin) : kNoRotation, dk_rows,
                g_.dk.row);
    unpack_rows(m_.dv, count, a_.D, Dp_, 1.0f, kNoRotation, dv_rows, g_.dv.row);
  }

  // What the first tile of a block of queries will read first of all.
  void fetch_queries(size_t head, size_t block) const {
    if (m_.is_begun[block] != 0) return;
    const size_t b = task_.sample;
    const auto [begin, end] = query_range(a_, block);
    fetch_rows(row_of(a_.q, b, head, begin), a_.q.row, end - begin, a_.D);
    fetch_rows(row_of(g_.dy, b, head, begin), g_.dy.row, end - begin, a_.D);
    fetch_rows(row_of(g_.y, b, head, begin), g_.y.row, end - begin, a_.D);
  }

  // What a block of keys and its first tile will read.
  void fetch_keys(size_t head, size_t block) const {
    if (block >= task_.end) return;
    const auto [begin, end] = key_range(a_, block);
    const size_t b = task_.sample, kv = task_.kv_head;
    fetch_rows(row_of(a_.k, b, kv, begin), a_.k.row, end - begin, a_.D);
    fetch_rows(row_of(a_.v, b, kv, begin), a_.v.row, end - begin, a_.D);
    const Blocks blocks = queries_of(a_, block);
    if (blocks.count > 0) fetch_queries(head, block_at(blocks, 0));
  }

  void run_tile(const ScoreTile& t) {
    const size_t block = t.query / kTileQueries;
    score(t);
    multiply_keys(t, m_.dy + rows_of(block), m_.value_keys, a_.D, Dp_, m_.ds);
    differentiate(t);
    add_transposed(t, m_.p, m_.dy_values + values_of(block), Dp_, m_.dv);
    add_transposed(t, m_.ds, m_.query_values + values_of(block), Dp_, m_.dk);
    add_values(t, m_.ds, m_.keys, Dp_, dq_ + t.query * Dp_, Start::kAdd, nullptr);
  }

  // p: scores → P∘Z; ds: dY·Vᵀ → dS. Where a row sees nothing both become 0.
  void differentiate(const ScoreTile& t) {
    RowFactors factors;
    for (size_t r = 0; r < t.rows; ++r) {
      float* p = m_.p + r * kTileKeys;
      float* ds = m_.ds + r * kTileKeys;
      const F32 shift = splat(m_.shift[t.query + r]), weight = splat(m_.weight[t.query + r]);
      const F32 along = splat(m_.along[t.query + r]);
      const size_t seen = padded(seen_columns(t, r)), width = strip_columns(t.columns);
      if (a_.dropout.rng) {
        const float* kept = drop_factors(t, a_, r, factors);
        for (size_t c = 0; c < seen; c += kLanes) {
          const F32 probability = weight * exp_weight(load(p + c) - shift), z = load(kept + c);
          store(p + c, probability * z);
          store(ds + c, probability * (load(ds + c) * z - along));
        }
      } else {
        for (size_t c = 0; c < seen; c += kLanes) {
          const F32 probability = weight * exp_weight(load(p + c) - shift);
          store(p + c, probability);
          store(ds + c, probability * (load(ds + c) - along));
        }
      }
      for (size_t c = seen; c < width; ++c) p[c] = ds[c] = 0;
    }
  }

  const Attention& a_;
  const AttentionGradient& g_;
  const BackwardTask& task_;
  const BackwardMemory m_;
  const size_t Dp_;
  Multiplier multiplier_;
  // Sums of the present query head.
  float* dq_ = nullptr;
};

}  // namespace
}  // namespace dsjs::DSJS_ISA
