// Attention: Y = softmax(scale·Q·Kᵀ + bias, masked)·V and its gradient, a tile of the scores at a
// time, so that memory is linear in the number of queries and keys. Forward keeps a running maximum
// and sum for each row (Milakov & Gimelshein, arXiv 1805.02867; Rabe & Staats, arXiv 2112.05682;
// Dao et al., arXiv 2205.14135 and 2307.08691) and gives the logarithm of the sum; backward
// computes the probabilities again from it.
//
// Letters throughout: B samples, H query heads, Hkv key heads (each serves H/Hkv query heads in a
// row), Sq queries, Sk keys, D elements of a head. Query i and key j.
//
// A row that sees no key (every score −∞ or hidden) gives Y = 0, lse = −∞ and no gradient.
// Otherwise infinities and NaN do what they do in a plain softmax.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "core/parallel.h"
#include "kernels/elementwise.h"

namespace dsjs {

// Rows of D adjacent elements: row s of head h of sample b begins at data + b·batch + h·head +
// s·row.
struct HeadRows {
  const float* data;
  size_t batch, head, row;
};
struct HeadRowsOut {
  float* data;
  size_t batch, head, row;
};

// An addition to the scores, [B, H, Sq, Sk]; a stride is 0 where it broadcasts, `key` is 0 or 1.
struct ScoreBias {
  const float* data;
  size_t batch, head, query, key;
};

// Sorted lists: row r has blocks[starts[r]] to blocks[starts[r + 1] − 1].
struct BlockLists {
  const uint32_t* starts;
  const uint32_t* blocks;
};

// The blocks of the scores that exist, block × block each, the last ones cut off by Sq and Sk. What
// lies outside of them is hidden.
struct BlockLayout {
  // 16, 32, 48, ... 128.
  size_t block;
  // One for all heads, or one for each of the H heads.
  size_t heads;
  // The blocks of keys that each block of queries attends to.
  const BlockLists* lists;
};

struct Attention {
  size_t B, H, Hkv, Sq, Sk, D;
  float scale;
  HeadRows q, k, v;
  ScoreBias bias;           // data null: none
  const uint8_t* key_mask;  // [B, Sk], 0 hides a key; or null
  // Key j is seen by query i when j ≤ i + Sk − Sq.
  bool causal;
  // Null, or [Sq, D/2] with Sq = Sk: Q and K are rotated as they are read (RotaryEmbedding).
  const float* cos;
  const float* sin;
  // Of the probabilities: column j, row i, plane h. rng null: none. The mask's sizes are not read.
  DropoutMask dropout;
  // Null: every block exists.
  const BlockLayout* layout;
};

struct AttentionResult {
  HeadRowsOut y;
  float* lse;  // [B, H, Sq]
};

struct AttentionGradient {
  HeadRows dy, y;
  const float* lse;
  HeadRowsOut dq, dk, dv;
};

// Throws INVALID_ARGUMENT for blocks of another size and for dropout beyond what its counters tell
// apart.
void check_attention(const Attention& attention);

// Floats of scratch memory, aligned to 64 bytes, that a call needs with so many threads.
size_t attention_scratch(const Attention& attention, size_t threads, Isa isa = active_isa());
size_t attention_grad_scratch(const Attention& attention, size_t threads, Isa isa = active_isa());

// The arguments are those that check_attention passes. Both repeat bit for bit at a given number of
// threads; forward also at any other.
void attention(const Attention& attention, const AttentionResult& result, Parallel& parallel,
               float* scratch, Isa isa = active_isa());
void attention_grad(const Attention& attention, const AttentionGradient& gradient,
                    Parallel& parallel, float* scratch, Isa isa = active_isa());

// The formulas in double, the scores of a row at once. Scratch is their own.
void attention_reference(const Attention& attention, const AttentionResult& result);
void attention_grad_reference(const Attention& attention, const AttentionGradient& gradient);

}  // namespace dsjs
