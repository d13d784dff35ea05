#include "attention/block_mask.h"

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

}  // namespace

size_t block_list_size(const BlockMask& mask) {
  size_t blocks = 0;
  for_blocks(mask.data, mask.heads * mask.rows * mask.columns, [&](size_t) { ++blocks; });
  return mask.heads * (mask.rows + 1) + blocks;
}

BlockLayout block_layout_of(const BlockMask& mask, uint32_t* memory, BlockLists* lists) {
  const uint8_t* row = mask.data;
  for (size_t h = 0; h < mask.heads; ++h) {
    uint32_t* starts = memory;
    uint32_t* blocks = memory + mask.rows + 1;
    uint32_t count = 0;
    starts[0] = 0;
    for (size_t r = 0; r < mask.rows; ++r, row += mask.columns) {
      for_blocks(row, mask.columns, [&](size_t c) { blocks[count++] = static_cast<uint32_t>(c); });
      starts[r + 1] = count;
    }
    lists[h] = {starts, blocks};
    memory = blocks + count;
  }
  return {mask.block, mask.heads, lists};
}

}  // namespace dsjs
