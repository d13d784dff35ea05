// The lists of random bitmaps say what the bitmaps say, in ascending order, and stay in their
// memory.
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
  const BlockMask mask{bitmap.data(), heads, rows, columns, 16};
  constexpr uint32_t kUntouched = 0xabcdabcd;
  const size_t size = block_list_size(mask);
  std::vector<uint32_t> memory(size + 1, kUntouched);
  std::vector<BlockLists> lists(heads);
  const BlockLayout layout = block_layout_of(mask, memory.data(), lists.data());
  CHECK(memory[size] == kUntouched);
  CHECK(layout.block == 16 && layout.heads == heads);
  for (size_t h = 0; h < heads; ++h) {
    const auto has = [&](size_t r, size_t c) { return bitmap[(h * rows + r) * columns + c] != 0; };
    const BlockLists& across = layout.lists[h];
    uint32_t at = 0;
    for (size_t r = 0; r < rows; ++r) {
      CHECK(across.starts[r] == at);
      for (size_t c = 0; c < columns; ++c)
        if (has(r, c)) CHECK(across.blocks[at++] == c);
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
  return summary();
}
