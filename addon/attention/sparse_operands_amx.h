// As sparse_operands.h, on tile registers. What has its lines in the rows of tiles is an operand A:
// keys for scores, values (for dQ keys) by element for sums over keys, weights by key for sums over
// queries. So what lies by key is multiplied as it lies, but sums over keys come by element,
// [Dp][kTileQueries]. Copies of a block of keys are kept as long as the blocks that were needed
// last: neighbouring blocks of queries attend to much the same ones.
#pragma once
#include "attention/fetch_ahead.h"
#include "attention/sparse_tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// Blocks are whole panels, but for the last one.
static_assert(kTileKeys % kPanelLines == 0 && kStep == kTileLines);

// Keys or values of a tile; those to rotate are copied a block at a time.
struct TileRows {
  const HeadRows& from;
  bool rotated;
  float* copy;
};
inline TileRows rows_of(const Attention&, const SparseTile&, const HeadRows& from, bool rotated,
                        size_t, float* copy) {
  return {from, rotated, copy};
}
inline bool reads_in_place(const Attention&, const HeadRows&, bool rotated) { return !rotated; }

// Floats of a block of keys as an operand: panels of 32 keys, whose terms are elements; panels of
// 32 elements, whose terms are the keys.
inline size_t score_block_size(const Attention& a) {
  return score_keys_size(key_block(a), padded(a.D));
}
inline size_t sum_block_size(const Attention& a) {
  return value_rows_size(key_block(a), padded(a.D));
}

// Blocks as operands, those that were asked for last.
class KeptBlocks {
 public:
  KeptBlocks(const Attention& a, float* memory, size_t block_size)
      : memory_(memory), block_size_(block_size), count_(size(a, block_size) / block_size) {}

  // Floats of memory: all that a tile needs, and more while it stays near.
  static size_t size(const Attention& a, size_t block_size) {
    constexpr size_t kNear = size_t{1} << 16;
    // Of blocks of 96 a tile has one and a short last one.
    const size_t least = parts_of(kTileKeys, key_block(a)), most = kNear / block_size;
    return block_size * (most < least ? least : most > kMost ? kMost : most);
  }

  // Where a block lies. If it does not yet, put(place) makes it, in place of the one that was not
  // asked for longest.
  template <class Put>
  const float* find(size_t block, Put put) {
    size_t oldest = 0;
    for (size_t i = 0; i < count_; ++i) {
      if (used_[i] > 0 && blocks_[i] == block) {
        used_[i] = ++now_;
        return memory_ + i * block_size_;
      }
      if (used_[i] < used_[oldest]) oldest = i;
    }
    blocks_[oldest] = block;
    used_[oldest] = ++now_;
    float* const place = memory_ + oldest * block_size_;
    put(place);
    return place;
  }

 private:
  static constexpr size_t kMost = 16;
  float* memory_;
  size_t block_size_, count_, now_ = 0;
  size_t blocks_[kMost] = {}, used_[kMost] = {};
};

// Operands of a tile's pieces.
struct PackedPieces {
  const float* pieces[kTileKeys / kStep];
};
using ScoreKeys = PackedPieces;
using SumKeys = PackedPieces;

// Calls pack(rows, count, place) for blocks of the tile that are not kept.
template <class Pack>
inline PackedPieces packed_pieces(const Attention& a, const SparseTile& t, const TileRows& rows,
                                  KeptBlocks& kept, Pack pack) {
  const size_t Dp = padded(a.D);
  PackedPieces packed;
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    packed.pieces[i] = kept.find(piece.block, [&](float* place) {
      HeadRows from = rows.from;
      from.data = row_of(rows.from, t.sample, t.head / (a.H / a.Hkv), piece.key);
      if (rows.rotated) {
        pack_rows(from.data, from.row, piece.count, a.D, Dp, 1.0f, rotation_at(a, piece.key),
                  rows.copy);
        from = {rows.copy, 0, 0, Dp};
      }
      pack(from, piece.count, place);
    });
  }
  return packed;
}
inline ScoreKeys score_keys(const Attention& a, const SparseTile& t, const TileRows& rows,
                            KeptBlocks& kept) {
  return packed_pieces(a, t, rows, kept, [&](const HeadRows& from, size_t count, float* place) {
    pack_parts<false, kParts>({0, from.row, 1, count, a.D}, ReadF32{from.data}, place);
  });
}
inline SumKeys sum_keys(const Attention& a, const SparseTile& t, const TileRows& rows,
                        KeptBlocks& kept) {
  return packed_pieces(a, t, rows, kept, [&](const HeadRows& from, size_t count, float* place) {
    pack_parts<false, kParts>({0, 1, from.row, a.D, count}, ReadF32{from.data}, place);
  });
}

// Queries: panels of 32 of them, whose terms are elements, and panels of 32 elements, whose terms
// are they.
using ScoreQueries = const float*;
struct SumQueries {
  const float* panels;
  size_t count;
};
inline size_t score_queries_memory(size_t Dp) { return score_keys_size(kTileQueries, Dp); }
inline size_t sum_queries_memory(size_t Dp) { return value_rows_size(kTileQueries, Dp); }
inline ScoreQueries score_queries(const HeadRows& rows, size_t count, size_t D, float* out) {
  pack_parts<true, kParts>({0, rows.row, 1, count, D}, ReadF32{rows.data}, out);
  return out;
}
inline SumQueries sum_queries(const HeadRows& rows, size_t count, size_t D, float* out) {
  pack_parts<true, kParts>({0, 1, rows.row, D, count}, ReadF32{rows.data}, out);
  return {out, count};
}

// The first panel of queries of which some see the key.
inline size_t first_panel(const Attention& a, const SparseTile& t, size_t key) {
  return blind_queries(a, t, key) / kPanelLines * kPanelLines;
}

// out[columns, rows] = keys·queriesᵀ. Panels of keys that not all see begin with the first panel of
// queries that sees some of them.
inline void multiply_queries(const Attention& a, const SparseTile& t, const ScoreKeys& keys,
                             ScoreQueries queries, size_t Dp, float* out, FetchAhead& ahead) {
  const size_t width = padded(t.rows), pitch = panel_floats(Dp, kParts);
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    for_panels(piece.count, [&](size_t begin, size_t count) {
      const size_t first = first_panel(a, t, piece.key + begin);
      if (first >= t.rows) return;
      multiply_panel(keys.pieces[i] + begin / kPanelLines * pitch, count, Dp,
                     {queries + first / kPanelLines * pitch, Dp, 0}, width - first,
                     out + (piece.column + begin) * width + first, width, Start::kZero, nullptr);
      ahead.some();
    });
  }
}

// What no query sees of a tile becomes zero, as far as sums go over it; so do lanes past the last
// query.
inline void clear_unseen(const Attention& a, const SparseTile& t, float* tile) {
  const size_t width = padded(t.rows);
  for (size_t c = t.plain; c < t.columns; ++c)
    for (size_t r = 0; r < blind_queries(a, t, key_at(t, c)) / kStep * kStep; r += kLanes)
      store(tile + c * width + r, F32{});
  if (t.rows % kLanes == 0) return;
  const size_t last = width - kLanes;
  for (size_t c = 0; c < t.columns; ++c) {
    float* scores = tile + c * width + last;
    store(scores, load_part(scores, t.rows - last));
  }
}

// Weights of a tile as an operand B, by query: a panel of `steps` steps of queries, whose terms are
// columns before `seen`. Both halves of a pair are vectors of the tile.
inline void pack_by_query(const float* tile, size_t width, size_t steps, size_t seen, float* panel,
                          FetchAhead& ahead) {
  odd_lines(panel) = 0;
  for (size_t block = 0; block * kBlockTerms < seen; ++block, tile += kBlockTerms * width)
    for (size_t half = 0; half < steps; ++half) {
      float* out = panel + kHeaderFloats + (block * kParts * 2 + half) * kTileFloats;
      const float* from = tile + half * kTileLines;
      uint32_t odd = 0;
      const size_t rest = seen - block * kBlockTerms;
      for (size_t i = 0; i < kTileLines; ++i, from += width, out += kLanes) {
        const F32 first = i < rest ? load(from) : F32{};
        const F32 second = i + kTileLines < rest ? load(from + kTileLines * width) : F32{};
        odd |= put_pairs<kParts>(first, second, out);
      }
      odd_lines(panel) |= odd << (half * kTileLines);
      ahead.some();
    }
}

// As an operand A, by key: a panel of `count` columns, whose terms are `steps` steps of queries.
inline void pack_by_key(const float* tile, size_t width, size_t count, size_t steps, float* panel,
                        FetchAhead& ahead) {
  uint32_t odd = 0;
  for (size_t step = 0; step < steps; step += 2) {
    ahead.some();
    for (size_t line = 0; line < parts_of(count, kTileLines) * kTileLines; ++line) {
      const float* from = tile + line * width + step * kTileLines;
      float* out = panel + kHeaderFloats +
                   (step / 2 * kParts * 2 + line / kTileLines) * kTileFloats +
                   line % kTileLines * kLanes;
      const F32 first = line < count ? load(from) : F32{};
      const F32 second = line < count && step + 1 < steps ? load(from + kTileLines) : F32{};
      odd |= put_pairs<kParts>(first, second, out) != 0 ? 1u << line : 0u;
    }
  }
  odd_lines(panel) = odd;
}

// out[Dp, rows] = out∘factors + keysᵀ·tile, for values or keys of the tile.
inline void add_keys(const Attention& a, const SparseTile& t, const float* tile,
                     const SumKeys& keys, size_t Dp, float* out, Start start, const float* factors,
                     FetchAhead& ahead) {
  const size_t width = padded(t.rows);
  alignas(64) float packed[kHeaderFloats + kTileKeys * kParts * kPanelLines / 2];
  if (start == Start::kScale)
    for (size_t d = 0; d < Dp; ++d)
      for (size_t r = 0; r < t.rows; r += kLanes) {
        float* sums = out + d * kTileQueries + r;
        store(sums, load(factors + r) * load(sums));
      }
  for_panels(t.rows, [&](size_t row, size_t count) {
    const size_t seen = seen_columns(a, t, row + count - 1);
    pack_by_query(tile + row, width, parts_of(count, kTileLines), seen, packed, ahead);
    for (size_t i = 0; i < t.count; ++i) {
      const KeyPiece& piece = t.pieces[i];
      // The first piece begins the sums even where nothing of it is seen.
      if (i > 0 && piece.column >= seen) break;
      const size_t rest = seen - piece.column, terms = rest < piece.count ? rest : piece.count;
      const size_t pitch = panel_floats(piece.count, kParts);
      const Start how = start == Start::kZero && i == 0 ? Start::kZero : Start::kAdd;
      for_panels(Dp, [&](size_t d, size_t lines) {
        multiply_panel(keys.pieces[i] + d / kPanelLines * pitch, lines, terms,
                       {packed, seen, piece.column / kBlockTerms}, padded(count),
                       out + d * kTileQueries + row, kTileQueries, how, nullptr);
        ahead.some();
      });
    }
  });
}

// out[piece.count, Dp] = or += the piece's part of tile·rows, for rows of the queries.
inline void add_queries(const Attention& a, const SparseTile& t, const KeyPiece& piece,
                        const float* tile, const SumQueries& rows, size_t Dp, float* out,
                        size_t out_row, Start start, FetchAhead& ahead) {
  const size_t width = padded(t.rows);
  alignas(64) float packed[kHeaderFloats + kTileQueries * kParts * kPanelLines / 2];
  for_panels(piece.count, [&](size_t begin, size_t count) {
    const size_t first = first_panel(a, t, piece.key + begin);
    float* const sums = out + begin * out_row;
    // Whole tiles are written only where there is room for them.
    const bool clears = first >= t.rows || count % kTileLines != 0;
    if (start == Start::kZero && clears)
      for (size_t i = 0; i < count; ++i)
        for (size_t d = 0; d < Dp; d += kLanes) store(sums + i * out_row + d, F32{});
    if (first >= t.rows) return;
    pack_by_key(tile + (piece.column + begin) * width + first, width, count,
                (width - first) / kTileLines, packed, ahead);
    multiply_panel(packed, count, t.rows - first, {rows.panels, rows.count, first / kBlockTerms},
                   Dp, sums, out_row, start == Start::kZero && !clears ? Start::kZero : Start::kAdd,
                   nullptr);
    ahead.some();
  });
}

// The sums of add_keys as rows of Dp.
inline const float* sums_as_rows(const float* sums, size_t count, size_t Dp, float* rows) {
  for (size_t r = 0; r < count; r += kLanes)
    for (size_t d = 0; d < Dp; d += kLanes) {
      F32 square[kLanes];
      for (size_t i = 0; i < kLanes; ++i) square[i] = load(sums + (d + i) * kTileQueries + r);
      transpose(square);
      for (size_t i = 0; i < kLanes; ++i) store(rows + (r + i) * Dp + d, square[i]);
    }
  return rows;
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
