// Copies of operands as tiles of bf16 that add up to fp32, for gemm_amx.cc.
//
// x = high + middle + low, each the nearest bf16 to what the ones before leave. A bf16 has 8
// significant bits, fp32 has 24: the three are x exactly. Their products add up to x·y; left out
// are middle·low, low·middle and low·low, together at most 2⁻²⁴|x·y|, what one rounding of fp32 may
// lose (Henry, Tang and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations, 2019). Parts below 2⁻¹²⁶ count as zero.
//
// A panel is 32 lines (rows of A, columns of B); a block of it 32 terms, as kParts pieces of two
// tiles of 16 lines: all zeros beyond the operand. Row p of a tile pairs the terms p and p + 16 of
// the block. A tile of A has lines in its rows and pairs in its columns, one of B the other way
// round.
#pragma once
#include "core/simd_transpose.h"
#include "gemm/readers.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kPanelLines = 32, kTileLines = 16, kBlockTerms = 32, kParts = 3;
constexpr size_t kTileFloats = 256;  // 1 KiB
// Before each panel: which of its lines hold what is not finite, or would not be when rounded.
constexpr size_t kHeaderFloats = 16;

inline size_t panel_floats(size_t depth, size_t parts) {
  return kHeaderFloats + parts_of(depth, kBlockTerms) * parts * 2 * kTileFloats;
}
inline uint32_t& odd_lines(float* panel) { return *reinterpret_cast<uint32_t*>(panel); }
inline uint32_t odd_lines(const float* panel) {
  uint32_t lines;
  std::memcpy(&lines, panel, sizeof lines);
  return lines;
}

constexpr int32_t kBf16Bits = static_cast<int32_t>(0xffff0000);

inline F32 nearest_bf16(F32 x) {
  return reinterpret_cast<F32>((reinterpret_cast<U32>(x) + 0x8000) & 0xffff0000);
}
// Lanes that hold NaN, an infinity, or what nearest_bf16 would make one: 0x7f7f8000 and more, but
// for the sign.
inline __mmask16 not_finite(F32 x) {
  return _mm512_cmpge_epu32_mask(_mm512_slli_epi32(__m512i(bits(x)), 1),
                                 _mm512_set1_epi32(static_cast<int>(0xfeff0000)));
}

// Two bf16, the first in the lower half of each lane.
inline F32 pair(F32 first, F32 second) {
  const __m512i low = _mm512_srli_epi32(__m512i(bits(first)), 16);
  return F32(_mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaaaaaa, low, __m512i(bits(second)))));
}

// The highest part of a vector that holds what nearest_bf16 does not keep finite: not rounded up,
// and NaN stays NaN.
inline F32 careful_bf16(F32 x) {
  return x != x ? from_bits(bits(x) | 0x400000) : from_bits(bits(x) & kBf16Bits);
}
inline F32 careful_rest(F32 x, F32 high) { return is_finite(high) ? x - high : F32{}; }

// Row `row` of the tile of each part, 2 · kTileFloats apart; returns the lanes that are not finite.
template <size_t kPartsOf>
[[gnu::always_inline]] inline __mmask16 put_pairs(F32 first, F32 second, float* row) {
  F32 high0 = nearest_bf16(first), high1 = nearest_bf16(second);
  const __mmask16 odd0 = not_finite(first), odd1 = not_finite(second), odd = odd0 | odd1;
  F32 rest0 = first - high0, rest1 = second - high1;
  if (__builtin_expect(odd, 0)) {
    // Other lanes keep their parts, and what comes of them its bits.
    high0 = F32(_mm512_mask_mov_ps(__m512(high0), odd0, __m512(careful_bf16(first))));
    high1 = F32(_mm512_mask_mov_ps(__m512(high1), odd1, __m512(careful_bf16(second))));
    rest0 = careful_rest(first, high0);
    rest1 = careful_rest(second, high1);
  }
  store(row, pair(high0, high1));
  if constexpr (kPartsOf == 3) {
    const F32 middle0 = nearest_bf16(rest0), middle1 = nearest_bf16(rest1);
    store(row + 2 * kTileFloats, pair(middle0, middle1));
    store(row + 4 * kTileFloats, pair(rest0 - middle0, rest1 - middle1));
  }
  return odd;
}

// kLanes lines and as many terms, from `line` and `term` on, of an operand whose element is at
// offset + line · line_stride + term · term_stride. Lanes run over what is adjacent in memory.
struct Source {
  size_t offset;
  size_t line_stride;
  size_t term_stride;
  size_t lines;
  size_t terms;
};

template <class Reader>
inline F32 read_lanes(const Reader& read, size_t at, size_t count) {
  if (count >= kLanes) return read.all(at);
  return count > 0 ? read.part(at, count) : F32{};
}

inline size_t left(size_t total, size_t done) { return total > done ? total - done : 0; }

template <class Reader>
void read_square(const Source& s, size_t line, size_t term, const Reader& read,
                 F32 (&square)[kLanes]) {
  const size_t at = s.offset + line * s.line_stride + term * s.term_stride;
  const size_t lines = left(s.lines, line), terms = left(s.terms, term);
  if (s.line_stride == 1) {
    for (size_t i = 0; i < kLanes; ++i)
      square[i] = i < terms ? read_lanes(read, at + i * s.term_stride, lines) : F32{};
  } else if (s.term_stride == 1) {
    for (size_t i = 0; i < kLanes; ++i)
      square[i] = i < lines ? read_lanes(read, at + i * s.line_stride, terms) : F32{};
  } else {
    for (size_t i = 0; i < kLanes; ++i) {
      square[i] = F32{};
      for (size_t j = 0; j < kLanes && i < lines && j < terms; ++j)
        square[i][j] = read.one(at + i * s.line_stride + j * s.term_stride)[0];
    }
  }
}

// 16 lines × 32 terms into a tile of each part. kLanesAreLines: as B's tiles. Returns the lines
// that are not finite.
template <bool kLanesAreLines, size_t kPartsOf, class Reader>
uint32_t pack_tile(const Source& s, size_t line, size_t term, const Reader& read, float* tile) {
  uint32_t odd = 0;
  const auto put_row = [&](size_t i, F32 first, F32 second) {
    const __mmask16 lanes = put_pairs<kPartsOf>(first, second, tile + i * kLanes);
    odd |= kLanesAreLines ? lanes : (lanes != 0 ? 1u << i : 0u);
  };
  // Whole, and adjacent in memory as in the tile: rows go through registers one by one.
  const size_t along = kLanesAreLines ? s.line_stride : s.term_stride;
  if (along == 1 && left(s.lines, line) >= kTileLines && left(s.terms, term) >= kBlockTerms) {
    const size_t at = s.offset + line * s.line_stride + term * s.term_stride;
    const size_t pitch = kLanesAreLines ? s.term_stride : s.line_stride;
    for (size_t i = 0; i < kLanes; ++i)
      put_row(i, read.all(at + i * pitch), read.all(at + i * pitch + kTileLines * s.term_stride));
    return odd;
  }
  F32 first[kLanes], second[kLanes];
  read_square(s, line, term, read, first);
  read_square(s, line, term + kTileLines, read, second);
  if ((s.line_stride == 1) != kLanesAreLines) {
    transpose(first);
    transpose(second);
  }
  for (size_t i = 0; i < kLanes; ++i) put_row(i, first[i], second[i]);
  return odd;
}

// Lines [0, source.lines) in panels of kPanelLines.
template <bool kLanesAreLines, size_t kPartsOf, class Reader>
void pack_parts(const Source& source, const Reader& read, float* packed) {
  const size_t pitch = panel_floats(source.terms, kPartsOf);
  const size_t panels = parts_of(source.lines, kPanelLines);
  for (size_t i = 0; i < panels; ++i) odd_lines(packed + i * pitch) = 0;
  const auto pack_block = [&](size_t panel, size_t term) {
    float* const start = packed + panel * pitch;
    float* tile = start + kHeaderFloats + term / kBlockTerms * kPartsOf * 2 * kTileFloats;
    for (size_t half = 0; half < 2; ++half, tile += kTileFloats) {
      const size_t line = panel * kPanelLines + half * kTileLines;
      odd_lines(start) |= pack_tile<kLanesAreLines, kPartsOf>(source, line, term, read, tile)
                          << (half * kTileLines);
    }
  };
  // Along what is adjacent in memory.
  if (source.line_stride == 1) {
    for (size_t term = 0; term < source.terms; term += kBlockTerms)
      for (size_t panel = 0; panel < panels; ++panel) pack_block(panel, term);
  } else {
    for (size_t panel = 0; panel < panels; ++panel)
      for (size_t term = 0; term < source.terms; term += kBlockTerms) pack_block(panel, term);
  }
}

// The value of the pairs' first terms (odd = false) or second ones, of a vector of each part.
template <size_t kPartsOf>
inline F32 unpack(const float* row, bool second) {
  const auto part = [&](size_t i) {
    const I32 raw = bits(load(row + i * 2 * kTileFloats));
    return from_bits(second ? raw & kBf16Bits : raw << 16);
  };
  if constexpr (kPartsOf == 1) return part(0);
  return part(0) + (part(1) + part(2));
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
