// The loops of compress/low_rank_kernels.h. Products of two fp32 are exact in fp64, so that it is
// the same whether a processor fuses them with the sum.
#include "compress/low_rank_kernels.h"
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kStripes = 16;
constexpr size_t kHalf = kLanes / 2;
// Vectors of fp64 that hold the stripes.
constexpr size_t kSums = kStripes / kHalf;

inline F64 load64(const double* p) {
  F64 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store64(double* p, F64 v) { std::memcpy(p, &v, sizeof v); }
inline F64 widen(const float* p) {
  HalfF32 v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, F64);
}
inline F64 widen(const double* p) { return load64(p); }
inline void store_narrow(float* p, F64 v) {
  const HalfF32 narrow = __builtin_convertvector(v, HalfF32);
  std::memcpy(p, &narrow, sizeof narrow);
}

// Rows of M and columns of Q whose dot products are added up side by side, as registers allow.
constexpr size_t kTileRows = kSums <= 4 ? 2 : 1;
constexpr size_t kTileColumns = kSums <= 2 ? 4 : 1;
// Rows and columns in loops over a matrix's entries.
constexpr size_t kRows = LowRankKernels::kRows;
constexpr size_t kColumns = kLanes >= 16 ? 4 : 2;

// sums[r][k] = Σ_j rows[r][j] · q[k][j], both `stride` apart; calls ahead(j) on the way.
template <size_t kR, size_t kK, class T, class Ahead>
inline void dots(const T* rows, const T* q, size_t stride, size_t count, double (&sums)[kR][kK],
                 Ahead ahead) {
  F64 parts[kR][kK][kSums] = {};
  size_t j = 0;
  for (; j + kStripes <= count; j += kStripes) {
    ahead(j);
#pragma GCC unroll 8
    for (size_t s = 0; s < kSums; ++s) {
      const size_t at = j + s * kHalf;
      F64 row[kR];
#pragma GCC unroll 4
      for (size_t r = 0; r < kR; ++r) row[r] = widen(rows + r * stride + at);
#pragma GCC unroll 4
      for (size_t k = 0; k < kK; ++k) {
        const F64 column = widen(q + k * stride + at);
#pragma GCC unroll 4
        for (size_t r = 0; r < kR; ++r) parts[r][k][s] = fma64(row[r], column, parts[r][k][s]);
      }
    }
  }
  for (size_t r = 0; r < kR; ++r)
    for (size_t k = 0; k < kK; ++k) {
      double stripes[kStripes];
      for (size_t s = 0; s < kSums; ++s) store64(stripes + s * kHalf, parts[r][k][s]);
      for (size_t s = 0; j + s < count; ++s)
        stripes[s] += static_cast<double>(rows[r * stride + j + s]) *
                      static_cast<double>(q[k * stride + j + s]);
      double sum = 0;
      for (double stripe : stripes) sum += stripe;
      sums[r][k] = sum;
    }
}

double dot(const double* a, const double* b, size_t count) {
  double sums[1][1];
  dots(a, b, 0, count, sums, [](size_t) {});
  return sums[0][0];
}

void add_to(float* x, const float* more, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, load(x + i) + load(more + i));
  for (; i < count; ++i) x[i] += more[i];
}

// Rows [i, i + kR) of M: the error is added on the way to the first tile's dot products, so that
// memory brings what comes next while these are added up.
template <size_t kR>
void project_rows(float* m, const float* error, size_t i, size_t rows, size_t columns,
                  const float* q, size_t rank, float* p) {
  float* own = m + i * columns;
  const float* more = error + i * columns;
  const auto nothing = [](size_t) {};
  const auto compensate = [&](size_t j) {
    for (size_t r = 0; r < kR; ++r) {
      const size_t at = r * columns + j;
      __builtin_prefetch(own + kR * columns + at);
      __builtin_prefetch(more + kR * columns + at);
      add_to(own + at, more + at, kStripes);
    }
  };
  const size_t full = columns / kStripes * kStripes;
  for (size_t r = 0; r < kR; ++r)
    add_to(own + r * columns + full, more + r * columns + full, columns - full);
  const auto tile = [&]<size_t kK>(size_t k) {
    double sums[kR][kK];
    if (k == 0)
      dots(own, q, columns, columns, sums, compensate);
    else
      dots(own, q + k * columns, columns, columns, sums, nothing);
    for (size_t r = 0; r < kR; ++r)
      for (size_t t = 0; t < kK; ++t) p[(k + t) * rows + i + r] = static_cast<float>(sums[r][t]);
  };
  size_t k = 0;
  for (; k + kTileColumns <= rank; k += kTileColumns) tile.template operator()<kTileColumns>(k);
  for (; k < rank; ++k) tile.template operator()<1>(k);
}

void project(float* m, const float* error, size_t rows, size_t columns, const float* q, size_t rank,
             float* p) {
  size_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows)
    project_rows<kTileRows>(m, error, i, rows, columns, q, rank, p);
  for (; i < rows; ++i) project_rows<1>(m, error, i, rows, columns, q, rank, p);
}

void orthonormalise(float* p, size_t rows, size_t rank, double* work) {
  for (size_t k = 0; k < rank; ++k) {
    double* column = work + k * rows;
    for (size_t i = 0; i < rows; ++i) column[i] = static_cast<double>(p[k * rows + i]);
    const double before = __builtin_sqrt(dot(column, column, rows));
    for (size_t l = 0; l < k; ++l) {
      const double* other = work + l * rows;
      const double along = dot(column, other, rows);
      for (size_t i = 0; i < rows; ++i) column[i] -= along * other[i];
    }
    const double length = __builtin_sqrt(dot(column, column, rows));
    const bool gone = !(length > 1e-6 * before);
    for (size_t i = 0; i < rows; ++i) {
      column[i] = gone ? 0 : column[i] / length;
      p[k * rows + i] = static_cast<float>(column[i]);
    }
  }
}

// sums[k][j] += Σ_r m[r][j] · p[k][r], row by row.
template <size_t kR, size_t kK>
void add_rows(const float* m, size_t columns, const float* p, size_t rows, double* sums) {
  F64 factors[kR][kK];
  for (size_t r = 0; r < kR; ++r)
    for (size_t k = 0; k < kK; ++k) factors[r][k] = splat64(static_cast<double>(p[k * rows + r]));
  size_t j = 0;
  for (; j + kHalf <= columns; j += kHalf) {
    F64 row[kR];
#pragma GCC unroll 4
    for (size_t r = 0; r < kR; ++r) row[r] = widen(m + r * columns + j);
#pragma GCC unroll 4
    for (size_t k = 0; k < kK; ++k) {
      double* at = sums + k * columns + j;
      F64 sum = load64(at);
#pragma GCC unroll 4
      for (size_t r = 0; r < kR; ++r) sum = fma64(row[r], factors[r][k], sum);
      store64(at, sum);
    }
  }
  for (; j < columns; ++j)
    for (size_t k = 0; k < kK; ++k)
      for (size_t r = 0; r < kR; ++r)
        sums[k * columns + j] +=
            static_cast<double>(m[r * columns + j]) * static_cast<double>(p[k * rows + r]);
}

template <size_t kR>
void project_rows_back(const float* m, size_t columns, const float* p, size_t rows, size_t rank,
                       double* sums) {
  size_t k = 0;
  for (; k + kColumns <= rank; k += kColumns)
    add_rows<kR, kColumns>(m, columns, p + k * rows, rows, sums + k * columns);
  for (; k < rank; ++k) add_rows<kR, 1>(m, columns, p + k * rows, rows, sums + k * columns);
}

void project_back(const float* m, size_t rows, size_t columns, const float* p, size_t rank,
                  float* q, double* work) {
  std::memset(work, 0, rank * columns * sizeof(double));
  size_t i = 0;
  for (; i + kRows <= rows; i += kRows)
    project_rows_back<kRows>(m + i * columns, columns, p + i, rows, rank, work);
  for (; i < rows; ++i) project_rows_back<1>(m + i * columns, columns, p + i, rows, rank, work);
  for (size_t i = 0; i < rank * columns; ++i) q[i] = static_cast<float>(work[i]);
}

// sums[r] = Σ_k factors[k][r] · q[k][j] for a vector of columns
template <size_t kR>
inline void entries(const double* factors, const float* q, size_t rank, size_t columns,
                    F64 (&sums)[kR]) {
#pragma GCC unroll 4
  for (size_t r = 0; r < kR; ++r) sums[r] = F64{};
  for (size_t k = 0; k < rank; ++k) {
    const F64 column = widen(q + k * columns);
#pragma GCC unroll 4
    for (size_t r = 0; r < kR; ++r) sums[r] = fma64(splat64(factors[k * kR + r]), column, sums[r]);
  }
}
inline float entry(const double* factors, size_t apart, const float* q, size_t rank,
                   size_t columns) {
  double sum = 0;
  for (size_t k = 0; k < rank; ++k) sum += factors[k * apart] * static_cast<double>(q[k * columns]);
  return static_cast<float>(sum);
}

template <size_t kR>
void exchange_rows(float* m, const float* p, size_t rows, const float* own_q, const float* q,
                   size_t rank, size_t columns, float* error, double* factors) {
  for (size_t k = 0; k < rank; ++k)
    for (size_t r = 0; r < kR; ++r) factors[k * kR + r] = static_cast<double>(p[k * rows + r]);
  size_t j = 0;
  for (; j + kHalf <= columns; j += kHalf) {
    F64 own[kR], sums[kR];
    entries(factors, own_q + j, rank, columns, own);
    entries(factors, q + j, rank, columns, sums);
#pragma GCC unroll 4
    for (size_t r = 0; r < kR; ++r) {
      const size_t at = r * columns + j;
      HalfF32 v;
      std::memcpy(&v, m + at, sizeof v);
      v = v - __builtin_convertvector(own[r], HalfF32);
      std::memcpy(error + at, &v, sizeof v);
      store_narrow(m + at, sums[r]);
    }
  }
  for (; j < columns; ++j)
    for (size_t r = 0; r < kR; ++r) {
      const size_t at = r * columns + j;
      error[at] = m[at] - entry(factors + r, kR, own_q + j, rank, columns);
      m[at] = entry(factors + r, kR, q + j, rank, columns);
    }
}

void exchange(float* m, const float* p, const float* own_q, const float* q, size_t rank,
              size_t rows, size_t columns, float* error, double* work) {
  size_t i = 0;
  for (; i + kRows <= rows; i += kRows)
    exchange_rows<kRows>(m + i * columns, p + i, rows, own_q, q, rank, columns, error + i * columns,
                         work);
  for (; i < rows; ++i)
    exchange_rows<1>(m + i * columns, p + i, rows, own_q, q, rank, columns, error + i * columns,
                     work);
}

}  // namespace

extern const LowRankKernels low_rank;
const LowRankKernels low_rank = {project, orthonormalise, project_back, exchange};

}  // namespace dsjs::DSJS_ISA
