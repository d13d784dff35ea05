// What one instruction set brings to attention: the work of one task, which a thread does alone.
#pragma once
#include <cstddef>

#include "attention/attention.h"

namespace dsjs {

// Adjacent queries or keys.
struct BlockRange {
  size_t begin, end;
};

namespace {

// Queries are taken in blocks of so many, keys in blocks of so many; a block is one of the layout's
// where there is one. Internal to each file that includes this, as everything is that is compiled
// for several instruction sets.
constexpr size_t kDenseQueries = 64;
constexpr size_t kDenseKeys = 128;

inline size_t query_block(const Attention& a) { return a.layout ? a.layout->block : kDenseQueries; }
inline size_t key_block(const Attention& a) { return a.layout ? a.layout->block : kDenseKeys; }
inline size_t query_blocks(const Attention& a) {
  return (a.Sq + query_block(a) - 1) / query_block(a);
}
inline size_t key_blocks(const Attention& a) { return (a.Sk + key_block(a) - 1) / key_block(a); }

inline BlockRange query_range(const Attention& a, size_t block) {
  const size_t begin = block * query_block(a), end = begin + query_block(a);
  return {begin, end < a.Sq ? end : a.Sq};
}
inline BlockRange key_range(const Attention& a, size_t block) {
  const size_t begin = block * key_block(a), end = begin + key_block(a);
  return {begin, end < a.Sk ? end : a.Sk};
}

// Blocks in ascending order: a list, or `count` in a row from `first` on.
struct Blocks {
  const uint32_t* list;
  size_t first, count;
};
inline size_t block_at(const Blocks& blocks, size_t i) {
  return blocks.list ? blocks.list[i] : blocks.first + i;
}
inline Blocks listed(const BlockLists& lists, size_t row) {
  return {lists.blocks + lists.starts[row], 0, lists.starts[row + 1] - lists.starts[row]};
}
inline const BlockLists& lists_of(const BlockLayout& layout, size_t head) {
  return layout.lists[layout.heads == 1 ? 0 : head];
}

// The blocks of keys of which some query of the block sees some key.
inline Blocks keys_of(const Attention& a, size_t head, size_t block) {
  const size_t end = query_range(a, block).end;
  // Keys before `limit` are seen by the last query.
  const size_t limit = !a.causal ? a.Sk : end + a.Sk > a.Sq ? end + a.Sk - a.Sq : 0;
  const size_t before = (limit + key_block(a) - 1) / key_block(a);
  if (!a.layout) return {nullptr, 0, before < key_blocks(a) ? before : key_blocks(a)};
  Blocks blocks = listed(lists_of(*a.layout, head), block);
  while (blocks.count > 0 && blocks.list[blocks.count - 1] >= before) --blocks.count;
  return blocks;
}

// Without a layout: the blocks of queries of which some query sees some key of the block.
inline Blocks queries_of(const Attention& a, size_t block) {
  // Queries from `first` on see the block's first key.
  const size_t key = block * key_block(a), all = query_blocks(a);
  const size_t first = a.causal && key + a.Sq > a.Sk ? (key + a.Sq - a.Sk) / query_block(a) : 0;
  return {nullptr, first, first < all ? all - first : 0};
}

}  // namespace

// Blocks of queries of one key head: unit u is block u mod query_blocks of the head's query head u
// / query_blocks.
struct ForwardTask {
  size_t sample, kv_head;
  size_t begin, end;
};

// A share of the gradients of one key head: without a layout what comes from blocks of keys [begin,
// end), with one what comes from blocks of queries. Gradients that other tasks add to, if there are
// any, are left in `sums`: without a layout dQ[H/Hkv, Sq, Dp], neither rotated back nor scaled,
// with one dK and dV, [2, Sk, Dp], not rotated back.
struct BackwardTask {
  size_t sample, kv_head;
  size_t begin, end;
  float* sums;
};

// Some rows of `sums`: those of a block of one key head. Blocks of queries are numbered as in
// ForwardTask.
struct SumTask {
  size_t sample, kv_head, block;
  // Of the first of the tasks; the next one's lie `stride` floats on. The first ones are used up.
  float* sums;
  size_t parts, stride;
};

struct AttentionKernels {
  // Floats of `sums`.
  size_t (*sums_size)(const Attention& attention);
  // Floats of scratch memory for a task.
  size_t (*forward_scratch)(const Attention& attention);
  size_t (*backward_scratch)(const Attention& attention);
  void (*forward)(const Attention& attention, const AttentionResult& result,
                  const ForwardTask& task, float* scratch);
  void (*backward)(const Attention& attention, const AttentionGradient& gradient,
                   const BackwardTask& task, float* scratch);
  // The gradients that `sums` are for.
  void (*add_up)(const Attention& attention, const AttentionGradient& gradient,
                 const SumTask& task);
};

// The fastest of this instruction set and the lesser ones it stands for, by the sizes.
const AttentionKernels& attention_kernels(const Attention& attention, Isa isa);

}  // namespace dsjs
