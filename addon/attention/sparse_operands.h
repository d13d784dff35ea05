// Products of a layout's tile of scores and the operands that they read, for attention_simd.cc.
// Keys and values are read where they lie, queries, for their scores, from panels.
#pragma once
#include "attention/fetch_ahead.h"
#include "attention/sparse_tile.h"

namespace dsjs::DSJS_ISA {
namespace {

// Keys or values of a tile: where each piece's rows begin, and how far apart they are.
struct TileRows {
  const float* pieces[kTileKeys / kStep];
  size_t row;
};

// Whether rows can be read where they are: they need whole vectors, no rotation, and not all to lie
// in the same few lines of the nearest cache, which repeats every 4 KiB.
inline bool reads_in_place(const Attention& a, const HeadRows& rows, bool rotated) {
  return a.D == padded(a.D) && !rotated && rows.row % 1024 != 0;
}

// The rows of the tile's keys or values, in place or copied.
inline TileRows rows_of(const Attention& a, const SparseTile& t, const HeadRows& from, bool rotated,
                        size_t Dp, float* copy) {
  const bool in_place = reads_in_place(a, from, rotated);
  TileRows rows;
  rows.row = in_place ? from.row : Dp;
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    const float* there = row_of(from, t.sample, t.head / (a.H / a.Hkv), piece.key);
    float* here = copy + piece.column * Dp;
    rows.pieces[i] = in_place ? there : here;
    if (!in_place)
      pack_rows(there, from.row, piece.count, a.D, Dp, 1.0f,
                rotated ? rotation_at(a, piece.key) : kNoRotation, here);
  }
  return rows;
}

// Nothing is kept of a block of keys: products read its rows.
inline size_t score_block_size(const Attention&) { return 0; }
inline size_t sum_block_size(const Attention&) { return 0; }
struct KeptBlocks {
  KeptBlocks(const Attention&, float*, size_t) {}
  static size_t size(const Attention&, size_t) { return 0; }
};
using ScoreKeys = TileRows;
using SumKeys = TileRows;
inline ScoreKeys score_keys(const Attention&, const SparseTile&, const TileRows& rows,
                            KeptBlocks&) {
  return rows;
}
inline SumKeys sum_keys(const Attention&, const SparseTile&, const TileRows& rows, KeptBlocks&) {
  return rows;
}

// Queries, and likewise: `count` rows of D at most kTileQueries.
using ScoreQueries = const float*;
using SumQueries = HeadRows;
inline size_t score_queries_memory(size_t Dp) { return kTileQueries * Dp; }
inline size_t sum_queries_memory(size_t) { return 0; }
inline ScoreQueries score_queries(const HeadRows& rows, size_t count, size_t D, float* panels) {
  transpose_rows(rows.data, rows.row, count, padded(D), panels);
  return panels;
}
inline SumQueries sum_queries(const HeadRows& rows, size_t, size_t, float*) { return rows; }

// out[columns, rows] = keys·panelsᵀ for the panels of the tile's queries. Of a piece that not all
// see, only strips from the first step of queries that sees some of it.
inline void multiply_queries(const Attention& a, const SparseTile& t, const ScoreKeys& keys,
                             ScoreQueries panels, size_t Dp, float* out, FetchAhead& ahead) {
  const size_t width = padded(t.rows);
  for (size_t i = 0; i < t.count; ++i) {
    const KeyPiece& piece = t.pieces[i];
    for_strips(a, t, piece, [&](size_t begin, size_t count, size_t first) {
      multiply<false>({keys.pieces[i] + begin * keys.row, keys.row, panels + first * Dp, kLanes,
                       kLanes * Dp, out + (piece.column + begin) * width + first, width, count,
                       (width - first) / kLanes, a.D},
                      Start::kZero, nullptr, [&] { ahead.some(); });
    });
  }
}

// Sums leave out what no query sees.
inline void clear_unseen(const Attention&, const SparseTile&, const float*) {}

// out[rows, Dp] = factors∘out + tileᵀ·keys, for values or keys of the tile.
inline void add_keys(const Attention& a, const SparseTile& t, const float* tile,
                     const SumKeys& keys, size_t Dp, float* out, Start start, const float* factors,
                     FetchAhead& ahead) {
  const size_t step = t.plain < t.columns ? kStep : t.rows;
  for (size_t row = 0; row < t.rows; row += step) {
    const size_t count = t.rows - row < step ? t.rows - row : step;
    const size_t seen = seen_columns(a, t, row);
    TermRun runs[kTileKeys / kStep];
    size_t pieces = 0;
    for (; pieces < t.count && t.pieces[pieces].column < seen; ++pieces) {
      const KeyPiece& piece = t.pieces[pieces];
      const size_t left = seen - piece.column;
      runs[pieces] = {keys.pieces[pieces], left < piece.count ? left : piece.count};
    }
    if (pieces == 0) runs[pieces++] = {keys.pieces[0], 0};
    multiply<true>({tile + row, padded(t.rows), runs[0].b, keys.row, kLanes, out + row * Dp, Dp,
                    count, Dp / kLanes, runs[0].terms, runs + 1, pieces - 1},
                   start, factors ? factors + row : nullptr, [&] { ahead.some(); });
  }
}

// out[piece.count, Dp] = or += the piece's part of tile·rows, for rows of the queries.
inline void add_queries(const Attention& a, const SparseTile& t, const KeyPiece& piece,
                        const float* tile, const SumQueries& rows, size_t Dp, float* out,
                        size_t out_row, Start start, FetchAhead& ahead) {
  const bool is_plain = piece.column + piece.count <= t.plain;
  const size_t strip = is_plain ? piece.count : kStep, width = padded(t.rows);
  for (size_t i = 0; i < piece.count; i += strip) {
    const size_t count = piece.count - i < strip ? piece.count - i : strip;
    const size_t first = blind_queries(a, t, piece.key + i);
    multiply<false>(
        {tile + (piece.column + i) * width + first, width, rows.data + first * rows.row, rows.row,
         kLanes, out + i * out_row, out_row, count, Dp / kLanes, t.rows - first},
        start, nullptr, [&] { ahead.some(); });
  }
}

// The sums of add_keys as rows of Dp.
inline const float* sums_as_rows(const float* sums, size_t, size_t, float*) { return sums; }

}  // namespace
}  // namespace dsjs::DSJS_ISA
