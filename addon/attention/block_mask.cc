#include "attention/block_mask.h"

namespace dsjs {
namespace {

size_t blocks_of(const uint8_t* bitmap, size_t size) {
  size_t count = 0;
  for (size_t i = 0; i < size; ++i) count += bitmap[i] != 0;
  return count;
}

// The columns of each row, and the end of what was written.
uint32_t* list_rows(const uint8_t* bitmap, size_t rows, size_t columns, uint32_t* memory,
                    BlockLists& lists) {
  uint32_t* starts = memory;
  uint32_t* blocks = memory + rows + 1;
  uint32_t count = 0;
  for (size_t r = 0; r < rows; ++r) {
    starts[r] = count;
    for (size_t c = 0; c < columns; ++c)
      if (bitmap[r * columns + c]) blocks[count++] = static_cast<uint32_t>(c);
  }
  starts[rows] = count;
  lists = {starts, blocks};
  return blocks + count;
}

// The rows of each column, likewise: counted, then dealt out row by row, so that they ascend.
uint32_t* list_columns(const uint8_t* bitmap, size_t rows, size_t columns, uint32_t* memory,
                       BlockLists& lists) {
  uint32_t* starts = memory;
  uint32_t* blocks = memory + columns + 1;
  for (size_t c = 0; c <= columns; ++c) starts[c] = 0;
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c) starts[c + 1] += bitmap[r * columns + c] != 0;
  for (size_t c = 0; c < columns; ++c) starts[c + 1] += starts[c];
  // starts[c] moves along its list while it is filled, and ends where the next one begins.
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c)
      if (bitmap[r * columns + c]) blocks[starts[c]++] = static_cast<uint32_t>(r);
  const uint32_t count = starts[columns];
  for (size_t c = columns; c > 0; --c) starts[c] = starts[c - 1];
  starts[0] = 0;
  lists = {starts, blocks};
  return blocks + count;
}

}  // namespace

size_t block_list_size(const BlockMask& mask) {
  const size_t blocks = blocks_of(mask.data, mask.heads * mask.rows * mask.columns);
  return mask.heads * (mask.rows + mask.columns + 2) + 2 * blocks;
}

BlockLayout block_layout_of(const BlockMask& mask, uint32_t* memory, BlockLists* lists) {
  const auto [data, heads, rows, columns, block] = mask;
  for (size_t h = 0; h < heads; ++h) {
    const uint8_t* bitmap = data + h * rows * columns;
    memory = list_rows(bitmap, rows, columns, memory, lists[h]);
    memory = list_columns(bitmap, rows, columns, memory, lists[heads + h]);
  }
  return {block, heads, lists, lists + heads};
}

}  // namespace dsjs
