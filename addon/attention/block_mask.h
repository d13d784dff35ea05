// From a bitmap of blocks to the lists that the tile loop walks.
#pragma once
#include <cstddef>
#include <cstdint>

#include "attention/attention.h"

namespace dsjs {

// For each head (or one for all) rows × columns bytes: not 0 where the queries of a block row
// attend to the keys of a block column.
struct BlockMask {
  const uint8_t* data;
  size_t heads, rows, columns, block;
};

// Numbers that the lists of a mask take.
size_t block_list_size(const BlockMask& mask);

// Fills `memory`, block_list_size() long, and `lists`, one for each head of the mask; the layout
// points into both.
BlockLayout block_layout_of(const BlockMask& mask, uint32_t* memory, BlockLists* lists);

}  // namespace dsjs
