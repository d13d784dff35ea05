#include "attention/block_mask.h"

#include <cstring>

namespace dsjs {
namespace {

size_t blocks_of(const uint8_t* bitmap, size_t size) {
  size_t count = 0;
  for (size_t i = 0; i < size; ++i) count += bitmap[i] != 0;
  return count;
}

// The first column from `at` on whose block exists, or `columns`. Most do not: eight at a time.
size_t next_block(const uint8_t* row, size_t at, size_t columns) {
  for (uint64_t eight; at + sizeof(eight) <= columns; at += sizeof(eight)) {
    std::memcpy(&eight, row + at, sizeof(eight));
    if (eight != 0) break;
  }
  while (at < columns && row[at] == 0) ++at;
  return at;
}

// The columns of each row, and the end of what was written.
uint32_t* list_rows(const uint8_t* bitmap, size_t rows, size_t columns, uint32_t* memory,
                    BlockLists& lists) {
  uint32_t* starts = memory;
  uint32_t* blocks = memory + rows + 1;
  uint32_t count = 0;
  for (size_t r = 0; r < rows; ++r) {
    starts[r] = count;
    const uint8_t* row = bitmap + r * columns;
    for (size_t c = next_block(row, 0, columns); c < columns; c = next_block(row, c + 1, columns))
      blocks[count++] = static_cast<uint32_t>(c);
  }
  starts[rows] = count;
  lists = {starts, blocks};
  return blocks + count;
}

// The rows of each column, from the columns of each row: counted, then dealt out row by row, so
// that they ascend.
uint32_t* list_columns(const BlockLists& by_row, size_t rows, size_t columns, uint32_t* memory,
                       BlockLists& lists) {
  uint32_t* starts = memory;
  uint32_t* blocks = memory + columns + 1;
  const uint32_t count = by_row.starts[rows];
  for (size_t c = 0; c <= columns; ++c) starts[c] = 0;
  for (uint32_t i = 0; i < count; ++i) ++starts[by_row.blocks[i] + 1];
  for (size_t c = 0; c < columns; ++c) starts[c + 1] += starts[c];
  // starts[c] moves along its list while it is filled, and ends where the next one begins.
  for (size_t r = 0; r < rows; ++r)
    for (uint32_t i = by_row.starts[r]; i < by_row.starts[r + 1]; ++i)
      blocks[starts[by_row.blocks[i]]++] = static_cast<uint32_t>(r);
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
    memory = list_columns(lists[h], rows, columns, memory, lists[heads + h]);
  }
  return {block, heads, lists, lists + heads};
}

}  // namespace dsjs
