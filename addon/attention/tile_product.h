// Products of small matrices that lie in the first-level cache, for attention_simd.cc.
#pragma once
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

// Terms of B that lie apart from those before them.
struct TermRun {
  const float* b;
  size_t terms;
};

// C = or += A·B. Columns come in whole vectors: vector v of term k of B is at b + k·b_term +
// v·b_vector.
struct TileProduct {
  const float* a;
  // Distance of two rows, or with a transposed A of two terms; the other one is 1.
  size_t a_stride;
  const float* b;
  size_t b_term, b_vector;
  float* c;
  size_t c_row;
  size_t rows, vectors, terms;
  // What follows the first `terms`.
  const TermRun* runs = nullptr;
  size_t run_count = 0;
};

enum class Start {
  kZero,   // C = A·B
  kAdd,    // C += A·B
  kScale,  // C = factors[row]·C + A·B
};

#if defined(DSJS_ISA_AVX512) || defined(DSJS_ISA_NEON)
constexpr size_t kMaxVectors = 4;
#else
constexpr size_t kMaxVectors = 2;
#endif

// Rows of a register tile so many vectors wide: accumulators, a row of B and an element of A fill
// the registers.
constexpr size_t register_rows(size_t vectors) {
#if defined(DSJS_ISA_AVX512) || defined(DSJS_ISA_NEON)
  constexpr size_t kRows[] = {16, 12, 8, 6};
#else
  constexpr size_t kRows[] = {8, 6};
#endif
  return kRows[vectors - 1];
}

// A column of A in kRows rows, at most 16: a pointer for four of them and two distances, which is
// what addresses are made of. Compilers would make a pointer of each row, more than there are
// registers.
template <size_t kRows>
class ColumnOfRows {
 public:
  ColumnOfRows(const float* a, size_t stride)
      : rows0_(a),
        rows4_(kRows > 4 ? a + 4 * stride : a),
        rows8_(kRows > 8 ? a + 8 * stride : a),
        rows12_(kRows > 12 ? a + 12 * stride : a),
        stride_(stride),
        stride3_(3 * stride) {
    keep(stride_);
    keep(stride3_);
  }
  float operator[](size_t row) const {
    const float* rows = row < 4 ? rows0_ : row < 8 ? rows4_ : row < 12 ? rows8_ : rows12_;
    const size_t in = row % 4;
    return in == 0 ? rows[0] : in == 3 ? rows[stride3_] : rows[in * stride_];
  }
  void advance() {
    keep(++rows0_);
    keep(++rows4_);
    keep(++rows8_);
    keep(++rows12_);
  }

 private:
  // The compiler is not to know what it is made of.
  template <class T>
  static void keep(T& value) {
    asm("" : "+r"(value));
  }
  const float *rows0_, *rows4_, *rows8_, *rows12_;
  size_t stride_, stride3_;
};

// kRows × kVectors elements of C, in registers from the first term to the last.
template <size_t kRows, size_t kVectors, bool kTransposedA>
void register_tile(const TileProduct& p, size_t row, size_t vector, Start start,
                   const float* factors) {
  float* c = p.c + row * p.c_row + vector * kLanes;
  const float* a = p.a + row;
  ColumnOfRows<kRows> column(p.a + row * p.a_stride, p.a_stride);
  const float* b = p.b + vector * p.b_vector;
  F32 sum[kRows][kVectors];
  if (start == Start::kZero) {
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = F32{};
  } else {
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = load(c + r * p.c_row + v * kLanes);
  }
  if (start == Start::kScale) {
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] *= splat(factors[row + r]);
  }

  size_t terms = p.terms;
  for (size_t run = 0;; ++run) {
    for (size_t k = 0; k < terms; ++k, b += p.b_term) {
      F32 term[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) term[v] = load(b + v * p.b_vector);
#pragma GCC unroll 16
      for (size_t r = 0; r < kRows; ++r) {
        const F32 element = splat(kTransposedA ? a[r] : column[r]);
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) sum[r][v] = fma(element, term[v], sum[r][v]);
      }
      if constexpr (kTransposedA)
        a += p.a_stride;
      else
        column.advance();
    }
    if (run == p.run_count) break;
    b = p.runs[run].b + vector * p.b_vector;
    terms = p.runs[run].terms;
  }

#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) store(c + r * p.c_row + v * kLanes, sum[r][v]);
}

struct Nothing {
  void operator()() const {}
};

// `between` is called after each register tile.
template <size_t kVectors, bool kTransposedA, class Between>
void multiply_rows(const TileProduct& p, size_t vector, Start start, const float* factors,
                   const Between& between) {
  constexpr size_t kRows = register_rows(kVectors);
  size_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) {
    register_tile<kRows, kVectors, kTransposedA>(p, row, vector, start, factors);
    between();
  }
  if constexpr (kRows > 8)
    for (; row + 8 <= p.rows; row += 8) {
      register_tile<8, kVectors, kTransposedA>(p, row, vector, start, factors);
      between();
    }
  for (; row + 4 <= p.rows; row += 4) {
    register_tile<4, kVectors, kTransposedA>(p, row, vector, start, factors);
    between();
  }
  for (; row + 2 <= p.rows; row += 2)
    register_tile<2, kVectors, kTransposedA>(p, row, vector, start, factors);
  if (row < p.rows) register_tile<1, kVectors, kTransposedA>(p, row, vector, start, factors);
}

template <bool kTransposedA, class Between = Nothing>
void multiply(const TileProduct& p, Start start, const float* factors = nullptr,
              const Between& between = {}) {
  size_t vector = 0;
  for (; vector + kMaxVectors <= p.vectors; vector += kMaxVectors)
    multiply_rows<kMaxVectors, kTransposedA>(p, vector, start, factors, between);
  const size_t rest = p.vectors - vector;
  if constexpr (kMaxVectors > 2) {
    if (rest == 3) return multiply_rows<3, kTransposedA>(p, vector, start, factors, between);
    if (rest == 2) return multiply_rows<2, kTransposedA>(p, vector, start, factors, between);
  }
  if (rest == 1) multiply_rows<1, kTransposedA>(p, vector, start, factors, between);
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
