#include "gemm/in_place.h"
#include "gemm/pack.h"

namespace dsjs::DSJS_ISA {
namespace {

// A panel of B stays in the first-level cache while the panels of A, which fit the second, pass it.
void multiply(const Product& product, const Block& block) {
  const size_t panels = parts_of(block.rows.count, kTileRows);
  float* const corner = block.c + block.rows.begin * product.ldc + block.columns.begin;
  const bool ends = block.finish && has_end(product);
  alignas(64) float out[kTileRows * kTileColumns];
  for (size_t j = 0; j < block.columns.count; j += kTileColumns) {
    const size_t left = block.columns.count - j;
    const size_t width = left < kTileColumns ? left : kTileColumns;
    const auto& tiles = kTiles.of[parts_of(width, kLanes) - 1];
    for (size_t i = 0; i < panels; ++i) {
      const Span rows = piece_of(block.rows.count, panels, i);
      float* c = corner + rows.begin * product.ldc + j;
      tiles[rows.count - 1](block.depth, block.a + rows.begin * block.depth,
                            block.b + j * block.depth, ends ? out : c,
                            ends ? kTileColumns : product.ldc, width, &product.alpha,
                            ends || block.replace, later_of(product, c, ends));
      if (ends)
        finish_sums(product, {out, kTileColumns, 1, block.replace}, c, rows.count,
                    {block.columns.begin + j, width});
    }
  }
}

// Terms: a panel of B about fills a first-level cache of 48 KiB; with 256 products of one panel
// were slower, by 8%. Rows: four tiles of AVX-512; with more the tiles were slower, by 4% at 168.
// Columns: 384 × 768 floats are about half of a second-level cache of 2 MiB, so that what is packed
// of B is still there when it is read, beside what is read of A and C.
constexpr Blocking kBlocking{384, (56 + kTileRows - 1) / kTileRows* kTileRows, 768};

}  // namespace

// Rows and columns change places where a row of C fits into a vector.
constexpr size_t kFewColumns = kLanes;

extern const GemmKernels gemm_table;
const GemmKernels gemm_table = {
    kTileRows,       kTileColumns,    1,          kFewRows, kFewColumns, kBlocking,
    packed_a_floats, packed_b_floats, pack_a,     pack_b,   sum_columns, multiply,
    multiply_rows,   lines_of_a,      lines_of_b, in_place, few_columns, finish_in_place};

}  // namespace dsjs::DSJS_ISA
