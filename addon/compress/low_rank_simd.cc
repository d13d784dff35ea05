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

template <class T>
double dot(const T* a, const T* b, size_t count) {
  F64 sums[kSums] = {};
  size_t i = 0;
  for (; i + kStripes <= count; i += kStripes)
    for (size_t s = 0; s < kSums; ++s) {
      const size_t at = i + s * kHalf;
      sums[s] += widen(a + at) * widen(b + at);
    }
  double stripes[kStripes];
  for (size_t s = 0; s < kSums; ++s) store64(stripes + s * kHalf, sums[s]);
  for (size_t s = 0; i + s < count; ++s)
    stripes[s] += static_cast<double>(a[i + s]) * static_cast<double>(b[i + s]);
  double sum = 0;
  for (double stripe : stripes) sum += stripe;
  return sum;
}

void project(const float* m, size_t rows, size_t columns, const float* q, size_t rank, float* p) {
  for (size_t i = 0; i < rows; ++i)
    for (size_t k = 0; k < rank; ++k)
      p[k * rows + i] = static_cast<float>(dot(m + i * columns, q + k * columns, columns));
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

// sums[j] += row[j] · factor
inline void add_row(double* sums, const float* row, double factor, size_t count) {
  const F64 f = splat64(factor);
  size_t j = 0;
  for (; j + kHalf <= count; j += kHalf) store64(sums + j, load64(sums + j) + widen(row + j) * f);
  for (; j < count; ++j) sums[j] += static_cast<double>(row[j]) * factor;
}

void project_back(const float* m, size_t rows, size_t columns, const float* p, size_t rank,
                  float* q, double* work) {
  std::memset(work, 0, rank * columns * sizeof(double));
  for (size_t i = 0; i < rows; ++i)
    for (size_t k = 0; k < rank; ++k)
      add_row(work + k * columns, m + i * columns, static_cast<double>(p[k * rows + i]), columns);
  for (size_t i = 0; i < rank * columns; ++i) q[i] = static_cast<float>(work[i]);
}

// body(at, sum) for a vector of entries, and tail(at, sum) for each of the last ones.
template <class Body, class Tail>
inline void each_entry(const float* p, const float* q, size_t rank, size_t rows, size_t columns,
                       Body body, Tail tail) {
  for (size_t i = 0; i < rows; ++i) {
    size_t j = 0;
    for (; j + kHalf <= columns; j += kHalf) {
      F64 sum{};
      for (size_t k = 0; k < rank; ++k)
        sum += splat64(static_cast<double>(p[k * rows + i])) * widen(q + k * columns + j);
      body(i * columns + j, sum);
    }
    for (; j < columns; ++j) {
      double sum = 0;
      for (size_t k = 0; k < rank; ++k)
        sum += static_cast<double>(p[k * rows + i]) * static_cast<double>(q[k * columns + j]);
      tail(i * columns + j, sum);
    }
  }
}

void expand(const float* p, const float* q, size_t rank, size_t rows, size_t columns, float* y) {
  each_entry(
      p, q, rank, rows, columns, [&](size_t at, F64 sum) { store_narrow(y + at, sum); },
      [&](size_t at, double sum) { y[at] = static_cast<float>(sum); });
}

void residual(const float* m, const float* p, const float* q, size_t rank, size_t rows,
              size_t columns, float* y) {
  each_entry(
      p, q, rank, rows, columns,
      [&](size_t at, F64 sum) {
        const HalfF32 sent = __builtin_convertvector(sum, HalfF32);
        HalfF32 v;
        std::memcpy(&v, m + at, sizeof v);
        v = v - sent;
        std::memcpy(y + at, &v, sizeof v);
      },
      [&](size_t at, double sum) { y[at] = m[at] - static_cast<float>(sum); });
}

}  // namespace

extern const LowRankKernels low_rank;
const LowRankKernels low_rank = {project, orthonormalise, project_back, expand, residual};

}  // namespace dsjs::DSJS_ISA
