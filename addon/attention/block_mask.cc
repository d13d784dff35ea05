#include "attention/block_mask.h"

#include <algorithm>
#include <cstring>

namespace dsjs {
namespace {

// Calls fn(column) for the blocks that exist, in ascending order. Most do not: 64 at a time, then
// eight.
template <class Fn>
void for_blocks(const uint8_t* row, size_t columns, Fn fn) {
  constexpr size_t kWords = 8;
  uint64_t words[kWords];
  size_t at = 0;
  for (; at + sizeof words <= columns; at += sizeof words) {
    std::memcpy(words, row + at, sizeof words);
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any == 0) continue;
    for (size_t w = 0; w < kWords; ++w) {
      if (words[w] == 0) continue;
      const size_t begin = at + w * sizeof(uint64_t);
      for (size_t c = begin; c < begin + sizeof(uint64_t); ++c)
        if (row[c] != 0) fn(c);
    }
  }
  for (; at < columns; ++at)
    if (row[at] != 0) fn(at);
}

// Calls fn(head, row, bytes, columns) for all rows: pieces of them, of which a thread has something
// to do, on several.
template <class Fn>
void for_rows(const BlockMask& mask, Parallel& parallel, Fn fn) {
  constexpr size_t kPiece = size_t{1} << 16;
  const size_t rows = mask.heads * mask.rows;
  const size_t piece = std::max<size_t>(1, kPiece / std::max<size_t>(1, mask.columns));
  parallel.run((rows + piece - 1) / piece, [&](size_t p) {
    for (size_t i = p * piece; i < std::min(rows, (p + 1) * piece); ++i) {
      const size_t head = i / mask.rows, row = i % mask.rows;
      fn(head, row, mask.data + i * mask.columns, std::min(mask.columns, mask.first_columns + row));
    }
  });
}

}  // namespace

size_t count_blocks(const BlockMask& mask, Parallel& parallel, uint32_t* starts) {
  for_rows(mask, parallel, [&](size_t head, size_t row, const uint8_t* bytes, size_t columns) {
    uint32_t blocks = 0;
    for_blocks(bytes, columns, [&](size_t) { ++blocks; });
    starts[head * (mask.rows + 1) + row + 1] = blocks;
  });
  size_t total = 0;
  for (size_t h = 0; h < mask.heads; ++h, starts += mask.rows + 1) {
    starts[0] = 0;
    for (size_t r = 0; r < mask.rows; ++r) starts[r + 1] += starts[r];
    total += starts[mask.rows];
  }
  return total;
}

BlockLayout block_layout_of(const BlockMask& mask, Parallel& parallel, const uint32_t* starts,
                            uint32_t* blocks, BlockLists* lists) {
  // Each head's blocks lie behind those of the heads before it.
  uint32_t* own = blocks;
  for (size_t h = 0; h < mask.heads; ++h) {
    lists[h] = {starts + h * (mask.rows + 1), own};
    own += lists[h].starts[mask.rows];
  }
  for_rows(mask, parallel, [&](size_t head, size_t row, const uint8_t* bytes, size_t columns) {
    const BlockLists& list = lists[head];
    uint32_t* next = blocks + (list.blocks - blocks) + list.starts[row];
    for_blocks(bytes, columns, [&](size_t c) { *next++ = static_cast<uint32_t>(c); });
  });
  return {mask.block, mask.heads, lists};
}

}  // namespace dsjs
