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
  // Row r has no more than `first_columns` + r columns that are looked at: what comes behind them
  // no query of a causal attention sees.
  size_t first_columns;
};

// Numbers that say where the rows of all lists begin.
inline size_t block_starts_size(const BlockMask& mask) { return mask.heads * (mask.rows + 1); }

// Fills `starts`; says how many blocks there are.
size_t count_blocks(const BlockMask& mask, Parallel& parallel, uint32_t* starts);

// Fills `blocks`, as many as count_blocks said of these `starts`, and `lists`, one for each head of
// the mask; the layout points into all three.
BlockLayout block_layout_of(const BlockMask& mask, Parallel& parallel, const uint32_t* starts,
                            uint32_t* blocks, BlockLists* lists);

}  // namespace dsjs
