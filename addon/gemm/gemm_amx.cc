// Products on Intel's tile registers, which multiply bf16 alone: each fp32 as three of them, six
// products for one, at some 2.5 times the rate of fp32 and with its accuracy (amx_pack.h). A B that
// is stored as bf16 is one part: three products.
#include "gemm/amx_tile.h"

namespace dsjs::DSJS_ISA {
namespace {

template <size_t count>
struct Parts {
  static constexpr size_t kCount = count;
};

// Calls fn(Parts) with the number of parts of B.
template <class Fn>
auto with_parts_of_b(const Product& product, Fn fn) {
  return product.b_dtype == DType::kBFloat16 ? fn(Parts<1>()) : fn(Parts<kParts>());
}

size_t packed_a_floats(const Product&, size_t rows, size_t depth) {
  return parts_of(rows, kPanelLines) * panel_floats(depth, kParts);
}

size_t packed_b_floats(const Product& product, size_t columns, size_t depth) {
  return with_parts_of_b(product, [&](auto parts) {
    return parts_of(columns, kPanelLines) * panel_floats(depth, parts.kCount);
  });
}

void pack_rows_in_parts(const Product& product, const float* a, const float* a2, Span rows,
                        Span depth, float* packed) {
  const MatrixStrides strides = product.a_strides;
  const Source source{rows.begin * strides.row + depth.begin * strides.column, strides.row,
                      strides.column, rows.count, depth.count};
  with_reader_of_a(product, a, a2,
                   [&](auto read) { pack_parts<false, kParts>(source, read, packed); });
}

void pack_columns_in_parts(const Product& product, const void* b, const float* b2, Span columns,
                           Span depth, float* packed) {
  const MatrixStrides strides = product.b_strides;
  const Source source{columns.begin * strides.column + depth.begin * strides.row, strides.column,
                      strides.row, columns.count, depth.count};
  if (product.b_dtype == DType::kBFloat16)
    return pack_parts<true, 1>(source, Read16<widen_bf16>{static_cast<const uint16_t*>(b)}, packed);
  with_reader_of_packed_b(product, b, b2,
                          [&](auto read) { pack_parts<true, kParts>(source, read, packed); });
}

template <size_t kPartsOfB>
void sum_columns_of(const float* packed, size_t columns, size_t depth, bool add, float* sums) {
  for (size_t j = 0; j < columns; j += kTileLines) {
    const float* panel = packed + j / kPanelLines * panel_floats(depth, kPartsOfB);
    F32 first{}, second{};
    for (size_t term = 0; term < depth; term += kBlockTerms)
      for (size_t i = 0; i < kTileLines; ++i) {
        const size_t half = j % kPanelLines / kTileLines;
        first += columns_of_b<kPartsOfB>(panel, half, term + i);
        second += columns_of_b<kPartsOfB>(panel, half, term + i + kTileLines);
      }
    const F32 total = first + second;
    const size_t count = columns - j;
    if (count >= kLanes)
      store(sums + j, add ? load(sums + j) + total : total);
    else
      store_part(sums + j, add ? load_part(sums + j, count) + total : total, count);
  }
}

void sum_columns_in_parts(const Product& product, const float* packed, size_t columns, size_t depth,
                          bool add, float* sums) {
  with_parts_of_b(product, [&](auto parts) {
    sum_columns_of<parts.kCount>(packed, columns, depth, add, sums);
  });
}

inline size_t at_most(size_t limit, size_t value) { return value < limit ? value : limit; }

using TileProduct = void (*)(size_t, Panels, Panels, float*, size_t, const Later&, size_t);

template <size_t kPartsOfB>
void multiply_panels(const Product& product, const Block& block) {
  constexpr TileProduct kProducts[2][2] = {
      {tile_product<1, 1, kPartsOfB>, tile_product<1, 2, kPartsOfB>},
      {tile_product<2, 1, kPartsOfB>, tile_product<2, 2, kPartsOfB>}};
  const size_t a_pitch = panel_floats(block.depth, kParts);
  const size_t b_pitch = panel_floats(block.depth, kPartsOfB);
  const size_t blocks = parts_of(block.depth, kBlockTerms);
  const Tiles tiles;
  alignas(64) float out[kPanelLines * kPanelLines];
  const size_t row_panels = parts_of(block.rows.count, kPanelLines);
  const size_t column_panels = parts_of(block.columns.count, kPanelLines);
  const auto panels_at = [&](size_t i, size_t j) {
    return Panels{block.a + i * a_pitch + kHeaderFloats, block.b + j * b_pitch + kHeaderFloats};
  };
  for (size_t j = 0; j < column_panels; ++j) {
    const size_t columns = at_most(kPanelLines, block.columns.count - j * kPanelLines);
    for (size_t i = 0; i < row_panels; ++i) {
      const size_t rows = at_most(kPanelLines, block.rows.count - i * kPanelLines);
      const size_t row = block.rows.begin + i * kPanelLines;
      const size_t column = block.columns.begin + j * kPanelLines;
      float* c = block.c + row * product.ldc + column;
      const float *a = block.a + i * a_pitch, *b = block.b + j * b_pitch;
      const bool odd = (odd_lines(a) | odd_lines(b)) != 0;
      // After the last row comes the next column's first; after the last column nothing.
      const Panels next = i + 1 < row_panels      ? panels_at(i + 1, j)
                          : j + 1 < column_panels ? panels_at(0, j + 1)
                                                  : panels_at(i, j);
      const TileProduct run = kProducts[rows > kTileLines][columns > kTileLines];
      const bool ends = block.finish && has_end(product);
      const Later later = later_of(product, c, ends);
      const bool direct = rows == kPanelLines && columns == kPanelLines && block.replace &&
                          product.alpha == 1 && !odd && !ends;
      if (direct) {
        run(blocks, panels_at(i, j), next, c, product.ldc, later, rows);
        continue;
      }
      run(blocks, panels_at(i, j), next, out, kPanelLines, later, rows);
      if (odd) multiply_odd_lines<kPartsOfB>(block.depth, {a, b, 0}, rows, out, kPanelLines);
      const Sums sums{out, kPanelLines, product.alpha, block.replace};
      if (ends)
        finish_sums(product, sums, c, rows, {column, columns});
      else
        put_sums(product, sums, c, rows, columns);
    }
  }
}

void multiply(const Product& product, const Block& block) {
  with_parts_of_b(product, [&](auto parts) { multiply_panels<parts.kCount>(product, block); });
}

// Terms, rows: 256 rows of 512 terms take 0.8 MiB, a panel of B 0.1, of a second-level cache of 2
// MiB. 384 and 512 terms, 256 and 512 rows were within what repetitions differ by.
constexpr Blocking kBlocking{512, 256, 2048};

}  // namespace

extern const GemmKernels gemm_table;
const GemmKernels gemm_table = {kPanelLines,
                                kPanelLines,
                                kTileLines,
                                0,
                                0,
                                kBlocking,
                                packed_a_floats,
                                packed_b_floats,
                                pack_rows_in_parts,
                                pack_columns_in_parts,
                                sum_columns_in_parts,
                                multiply,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr,
                                finish_in_place};

}  // namespace dsjs::DSJS_ISA
