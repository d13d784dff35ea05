#include "attention/block_mask.h"

#include <cstring>

namespace dsjs {
namespace {

// Calls fn(column) for the blocks that exist, in ascending order. Most do not: eight at a time.
template <class Fn>
void for_blocks(const uint8_t* row, size_t columns, Fn fn) {
  size_t at = 0;
  for (uint64_t eight; at + sizeof(eight) <= columns; at += sizeof(eight)) {
    std::memcpy(&eight, row + at, sizeof(eight));
    if (eight == 0) continue;
    for (size_t c = at; c < at + sizeof(eight); ++c)
      if (row[c] != 0) fn(c);
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
