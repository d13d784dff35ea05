// Copies of operands in the order in which tiles read them, for gemm_simd.cc.
#pragma once
#include "core/simd_transpose.h"
#include "gemm/readers.h"
#include "gemm/tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// A panel: `width` lines (rows of A, columns of B) of `depth` terms. Element (line, term) is at
// offset + line · line_stride + term · term_stride. It is written term by term, `pitch` ≥ width
// floats apart; where pitch is more, zeros fill up.
struct Panel {
  size_t offset;
  size_t line_stride;
  size_t term_stride;
  size_t width;
  size_t depth;
  size_t pitch;
  float* out;
};

// Vectors are stored whole where they fit into the panel: what a vector writes beyond its own lines
// belongs to later terms, which overwrite it.
inline void store_term(const Panel& panel, size_t term, size_t line, F32 v) {
  const size_t at = term * panel.pitch + line;
  if (at + kLanes <= panel.depth * panel.pitch)
    store(panel.out + at, v);
  else
    store_part(panel.out + at, v, panel.depth * panel.pitch - at);
}

// Lines are adjacent in memory. Terms [begin, end).
template <class Reader>
void pack_adjacent_lines(const Panel& panel, size_t begin, size_t end, const Reader& read) {
  for (size_t term = begin; term < end; ++term) {
    const size_t at = panel.offset + term * panel.term_stride;
    size_t line = 0;
    for (; line + kLanes <= panel.width; line += kLanes)
      store_term(panel, term, line, read.all(at + line));
    if (line < panel.width) store_term(panel, term, line, read.part(at + line, panel.width - line));
  }
}

// Terms are adjacent in memory: squares of kLanes lines and terms are transposed.
template <size_t kMaxWidth, class Reader>
void pack_adjacent_terms(const Panel& panel, const Reader& read) {
  constexpr size_t kSquares = (kMaxWidth + kLanes - 1) / kLanes;
  const size_t squares = (panel.width + kLanes - 1) / kLanes;
  for (size_t term = 0; term < panel.depth; term += kLanes) {
    const size_t terms = panel.depth - term < kLanes ? panel.depth - term : kLanes;
    F32 square[kSquares][kLanes];
    for (size_t s = 0; s < squares; ++s) {
      for (size_t i = 0; i < kLanes; ++i) {
        const size_t line = s * kLanes + i;
        const size_t at = panel.offset + line * panel.line_stride + term;
        square[s][i] = line >= panel.width ? F32{}
                       : terms == kLanes   ? read.all(at)
                                           : read.part(at, terms);
      }
      transpose(square[s]);
    }
    for (size_t i = 0; i < terms; ++i)
      for (size_t s = 0; s < squares; ++s) store_term(panel, term + i, s * kLanes, square[s][i]);
  }
}

template <class Reader>
void pack_scattered(const Panel& panel, const Reader& read) {
  for (size_t term = 0; term < panel.depth; ++term)
    for (size_t line = 0; line < panel.pitch; ++line)
      panel.out[term * panel.pitch + line] =
          line < panel.width
              ? read.one(panel.offset + line * panel.line_stride + term * panel.term_stride)[0]
              : 0.0f;
}

template <size_t kMaxWidth, class Reader>
void pack_panel(const Panel& panel, const Reader& read) {
  if (panel.term_stride == 1)
    pack_adjacent_terms<kMaxWidth>(panel, read);
  else
    pack_scattered(panel, read);
}

// Where lines are adjacent, panels lie side by side in memory and take turns every few terms: a
// processor fetches ahead along a row, not down a column.
constexpr size_t kTurn = 16;

// `panel_of(i)` for i < panels.
template <size_t kMaxWidth, class Reader, class PanelOf>
void pack_panels(size_t panels, size_t depth, bool adjacent_lines, const Reader& read,
                 PanelOf panel_of) {
  if (!adjacent_lines) {
    for (size_t i = 0; i < panels; ++i) pack_panel<kMaxWidth>(panel_of(i), read);
    return;
  }
  for (size_t term = 0; term < depth; term += kTurn)
    for (size_t i = 0; i < panels; ++i)
      pack_adjacent_lines(panel_of(i), term, term + kTurn < depth ? term + kTurn : depth, read);
}

template <class Reader>
void pack_rows(const Product& product, Span rows, Span depth, const Reader& read, float* packed) {
  const MatrixStrides strides = product.a_strides;
  const size_t panels = parts_of(rows.count, kTileRows);
  pack_panels<kTileRows>(panels, depth.count, strides.row == 1, read, [&](size_t i) {
    const Span piece = piece_of(rows.count, panels, i);
    const size_t offset = (rows.begin + piece.begin) * strides.row + depth.begin * strides.column;
    return Panel{offset,
                 strides.row,
                 strides.column,
                 piece.count,
                 depth.count,
                 piece.count,
                 packed + piece.begin * depth.count};
  });
}

void pack_a(const Product& product, const float* a, const float* a2, Span rows, Span depth,
            float* packed) {
  with_reader_of_a(product, a, a2,
                   [&](auto read) { pack_rows(product, rows, depth, read, packed); });
}

template <class Reader>
void pack_columns(const Product& product, Span columns, Span depth, const Reader& read,
                  float* packed) {
  const MatrixStrides strides = product.b_strides;
  const size_t panels = parts_of(columns.count, kTileColumns);
  pack_panels<kTileColumns>(panels, depth.count, strides.column == 1, read, [&](size_t i) {
    const size_t first = i * kTileColumns;
    const size_t left = columns.count - first;
    const size_t width = left < kTileColumns ? left : kTileColumns;
    return Panel{(columns.begin + first) * strides.column + depth.begin * strides.row,
                 strides.column,
                 strides.row,
                 width,
                 depth.count,
                 parts_of(width, kLanes) * kLanes,
                 packed + first * depth.count};
  });
}

size_t packed_a_floats(const Product&, size_t rows, size_t depth) { return rows * depth; }

// The last panel is filled up to a whole one.
size_t packed_b_floats(const Product&, size_t columns, size_t depth) {
  return parts_of(columns, kTileColumns) * kTileColumns * depth;
}

void pack_b(const Product& product, const void* b, const float* b2, Span columns, Span depth,
            float* packed) {
  with_reader_of_packed_b(product, b, b2,
                          [&](auto read) { pack_columns(product, columns, depth, read, packed); });
}

void sum_columns(const Product&, const float* packed, size_t columns, size_t depth, bool add,
                 float* sums) {
  for (size_t j = 0; j < columns; j += kLanes) {
    // Panels are kTileColumns wide but for the last, which holds whole vectors.
    const size_t panel = j / kTileColumns * kTileColumns;
    const size_t left = columns - panel;
    const size_t pitch = left < kTileColumns ? parts_of(left, kLanes) * kLanes : kTileColumns;
    const float* in = packed + panel * depth + (j - panel);
    F32 even{}, odd{};
    size_t term = 0;
    for (; term + 2 <= depth; term += 2) {
      even += load(in + term * pitch);
      odd += load(in + (term + 1) * pitch);
    }
    if (term < depth) even += load(in + term * pitch);
    const F32 total = even + odd;
    const size_t lanes = columns - j;
    if (lanes >= kLanes)
      store(sums + j, add ? load(sums + j) + total : total);
    else
      store_part(sums + j, add ? load_part(sums + j, lanes) + total : total, lanes);
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
