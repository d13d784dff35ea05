// Rows of heads into the order in which tiles read them, and back, for attention_simd.cc. A packed
// row has D elements and zeros up to Dp, a multiple of kLanes.
#pragma once
#include "attention/attention_kernels.h"
#include "core/simd.h"
#include "core/simd_transpose.h"

namespace dsjs::DSJS_ISA {
namespace {

inline const float* row_of(const HeadRows& rows, size_t sample, size_t head, size_t row) {
  return rows.data + sample * rows.batch + head * rows.head + row * rows.row;
}
inline float* row_of(const HeadRowsOut& rows, size_t sample, size_t head, size_t row) {
  return rows.data + sample * rows.batch + head * rows.head + row * rows.row;
}

// Gives out pieces of scratch memory that begin on cache lines; with a null base it measures.
struct Scratch {
  float* base;
  size_t used = 0;
  float* take(size_t count) {
    float* piece = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    return piece;
  }
};

inline size_t vectors_of(size_t count) { return (count + kLanes - 1) / kLanes; }
inline size_t padded(size_t count) { return vectors_of(count) * kLanes; }

// cos and sin of the first row's position, D/2 values a row; null: not rotated.
struct Rotation {
  const float* cos;
  const float* sin;
  size_t half;
};

inline Rotation rotation_at(const Attention& a, size_t position) {
  const size_t half = a.D / 2;
  if (!a.cos) return {nullptr, nullptr, 0};
  return {a.cos + position * half, a.sin + position * half, half};
}
constexpr Rotation kNoRotation{nullptr, nullptr, 0};

// out = factor·R·row for D elements, R the rotation of row r or with `inverse` its transpose.
inline void convert_row(const float* row, float* out, size_t D, float factor,
                        const Rotation& rotation, size_t r, bool inverse) {
  const F32 f = splat(factor);
  if (!rotation.cos) {
    map(
        out, 0, D, [f](F32 x) { return f * x; }, row);
    return;
  }
  const size_t half = rotation.half;
  const float* cos = rotation.cos + r * half;
  const float* sin = rotation.sin + r * half;
  const F32 sign = splat(inverse ? -factor : factor);
  const auto first = [f, sign](F32 x1, F32 x2, F32 c, F32 s) { return x1 * c * f - x2 * s * sign; };
  const auto second = [f, sign](F32 x1, F32 x2, F32 c, F32 s) {
    return x2 * c * f + x1 * s * sign;
  };
  map(out, 0, half, first, row, row + half, cos, sin);
  map(out + half, 0, half, second, row, row + half, cos, sin);
}

// Rows of a head can lie a page apart, where the processor does not see the next one coming.
constexpr size_t kRowsAhead = 8;
// In floats.
constexpr size_t kCacheLine = 16;
inline void fetch_row(const float* row, size_t D) {
  for (size_t d = 0; d < D; d += kCacheLine) __builtin_prefetch(row + d);
}

// Asks for rows that are needed some tiles later. The processor itself looks ahead to the end of a
// page at most, and a block of 16 rows is not more than that.
inline void fetch_rows(const float* rows, size_t row_stride, size_t count, size_t D) {
  for (size_t r = 0; r < count; ++r) fetch_row(rows + r * row_stride, D);
}

// packed[count, Dp] = factor·R·rows
inline void pack_rows(const float* rows, size_t row_stride, size_t count, size_t D, size_t Dp,
                      float factor, const Rotation& rotation, float* packed) {
  for (size_t r = 0; r < count; ++r) {
    if (r + kRowsAhead < count) fetch_row(rows + (r + kRowsAhead) * row_stride, D);
    convert_row(rows + r * row_stride, packed + r * Dp, D, factor, rotation, r, false);
    for (size_t d = D; d < Dp; ++d) packed[r * Dp + d] = 0;
  }
}

// rows = factor·Rᵀ·packed
inline void unpack_rows(const float* packed, size_t count, size_t D, size_t Dp, float factor,
                        const Rotation& rotation, float* rows, size_t row_stride) {
  for (size_t r = 0; r < count; ++r) {
    if (r + kRowsAhead < count) fetch_row(rows + (r + kRowsAhead) * row_stride, D);
    convert_row(packed + r * Dp, rows + r * row_stride, D, factor, rotation, r, true);
  }
}

// Panels of kLanes rows, each element by element: panels[p][d][lane] = rows[p·kLanes + lane][d], d
// < Dp. Rows past the last are zeros.
inline void transpose_rows(const float* rows, size_t row_stride, size_t count, size_t Dp,
                           float* panels) {
  for (size_t row = 0; row < count; row += kLanes, panels += kLanes * Dp) {
    const size_t lanes = count - row < kLanes ? count - row : kLanes;
    for (size_t d = 0; d < Dp; d += kLanes) {
      F32 square[kLanes];
      for (size_t i = 0; i < kLanes; ++i)
        square[i] = i < lanes ? load(rows + (row + i) * row_stride + d) : F32{};
      transpose(square);
      for (size_t i = 0; i < kLanes; ++i) store(panels + (d + i) * kLanes, square[i]);
    }
  }
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
