// The lists of random bitmaps say what the bitmaps say, in ascending order, up to the column where
// a row ends, and stay in their memory.
#include "attention/block_mask.h"

#include <vector>

#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

void compare(size_t heads, size_t rows, size_t columns, uint64_t seed) {
  Random random(seed);
  std::vector<uint8_t> bitmap(heads * rows * columns);
  const uint64_t sparsity = 1 + random.bits() % 100;
  for (uint8_t& b : bitmap) b = random.bits() % sparsity == 0;
  const size_t first_columns = random.bits() % 2 ? columns : random.bits() % columns;
  const BlockMask mask{bitmap.data(), heads, rows, columns, 16, first_columns};
  constexpr uint32_t kUntouched = 0xabcdabcd;
  Serial parallel;
  std::vector<uint32_t> starts(block_starts_size(mask) + 1, kUntouched);
  const size_t size = count_blocks(mask, parallel, starts.data());
  CHECK(starts.back() == kUntouched);
  std::vector<uint32_t> blocks(size + 1, kUntouched);
  std::vector<BlockLists> lists(heads);
  const BlockLayout layout =
      block_layout_of(mask, parallel, starts.data(), blocks.data(), lists.data());
  CHECK(blocks[size] == kUntouched);
  CHECK(layout.block == 16 && layout.heads == heads);
  for (size_t h = 0; h < heads; ++h) {
    const auto has = [&](size_t r, size_t c) { return bitmap[(h * rows + r) * columns + c] != 0; };
    const BlockLists& across = layout.lists[h];
    uint32_t at = 0;
    for (size_t r = 0; r < rows; ++r) {
      CHECK(across.starts[r] == at);
      for (size_t c = 0; c < columns; ++c)
        if (c < first_columns + r && has(r, c)) CHECK(across.blocks[at++] == c);
    }
    CHECK(across.starts[rows] == at);
  }
}

}  // namespace

int main() {
  for (uint64_t seed = 1; seed < 60; ++seed) {
    Random random(seed);
    compare(1 + random.bits() % 4, 1 + random.bits() % 9, 1 + random.bits() % 150, seed);
  }
  // Several pieces.
  compare(2, 300, 1000, 60);
  return summary();
}
