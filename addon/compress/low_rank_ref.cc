#include <cmath>

#include "compress/low_rank_kernels.h"

namespace dsjs {
namespace {

constexpr size_t kStripes = 16;

template <class A, class B>
double dot(const A* a, const B* b, size_t count) {
  double stripes[kStripes] = {};
  for (size_t i = 0; i < count; ++i) {
    const volatile double product = double{a[i]} * double{b[i]};
    stripes[i % kStripes] += product;
  }
  double sum = 0;
  for (double stripe : stripes) sum += stripe;
  return sum;
}

void project(float* m, const float* error, size_t rows, size_t columns, const float* q, size_t rank,
             float* p) {
  for (size_t i = 0; i < rows * columns; ++i) m[i] += error[i];
  for (size_t k = 0; k < rank; ++k)
    for (size_t i = 0; i < rows; ++i)
      p[k * rows + i] = static_cast<float>(dot(m + i * columns, q + k * columns, columns));
}

void orthonormalise(float* p, size_t rows, size_t rank, double* work) {
  for (size_t k = 0; k < rank; ++k) {
    double* column = work + k * rows;
    for (size_t i = 0; i < rows; ++i) column[i] = p[k * rows + i];
    const double before = std::sqrt(dot(column, column, rows));
    for (size_t l = 0; l < k; ++l) {
      const double* other = work + l * rows;
      const double along = dot(column, other, rows);
      for (size_t i = 0; i < rows; ++i) {
        const volatile double part = along * other[i];
        column[i] -= part;
      }
    }
    const double length = std::sqrt(dot(column, column, rows));
    const bool gone = !(length > 1e-6 * before);
    for (size_t i = 0; i < rows; ++i) {
      column[i] = gone ? 0 : column[i] / length;
      p[k * rows + i] = static_cast<float>(column[i]);
    }
  }
}

void project_back(const float* m, size_t rows, size_t columns, const float* p, size_t rank,
                  float* q, double*) {
  for (size_t k = 0; k < rank; ++k)
    for (size_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (size_t i = 0; i < rows; ++i) sum += double{m[i * columns + j]} * double{p[k * rows + i]};
      q[k * columns + j] = static_cast<float>(sum);
    }
}

float entry(const float* p, const float* q, size_t rank, size_t rows, size_t columns, size_t i,
            size_t j) {
  double sum = 0;
  for (size_t k = 0; k < rank; ++k) sum += double{p[k * rows + i]} * double{q[k * columns + j]};
  return static_cast<float>(sum);
}

void exchange(float* m, const float* p, const float* own_q, const float* q, size_t rank,
              size_t rows, size_t columns, float* error, double*) {
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < columns; ++j) {
      const size_t at = i * columns + j;
      error[at] = m[at] - entry(p, own_q, rank, rows, columns, i, j);
      m[at] = entry(p, q, rank, rows, columns, i, j);
    }
}

}  // namespace

const LowRankKernels kLowRankReference = {project, orthonormalise, project_back, exchange};

}  // namespace dsjs
