// The loops of PowerSGD over a matrix M of `rows` × `columns`, row-major, and two factors: P[k][i]
// of rank × rows and Q[k][j] of rank × columns. Sums are fp64 in a fixed order, and their products
// of two fp32 exact, so that every instruction set gives the same bits: dot products in sixteen
// stripes, element i in stripe i mod 16, which are added in ascending order last; sums over rows
// and over k in ascending order.
#pragma once
#include <cstddef>

#include "core/isa.h"

namespace dsjs {

struct LowRankKernels {
  // M += error;  P[k][i] = Σ_j M[i][j] · Q[k][j]
  void (*project)(float* m, const float* error, size_t rows, size_t columns, const float* q,
                  size_t rank, float* p);
  // The columns P[k] become orthonormal (modified Gram-Schmidt, each rounded once), or 0 where
  // nothing above 10⁻⁶ of a column's length is left of it. `work` has rank · rows elements.
  void (*orthonormalise)(float* p, size_t rows, size_t rank, double* work);
  // Q[k][j] = Σ_i M[i][j] · P[k][i]. `work` has rank · columns elements.
  void (*project_back)(const float* m, size_t rows, size_t columns, const float* p, size_t rank,
                       float* q, double* work);
  // error = M − Σ_k P[k][i] · own_q[k][j], the sum rounded to fp32 first;  M = Σ_k P[k][i] ·
  // q[k][j]. `work` has kRows · rank elements.
  void (*exchange)(float* m, const float* p, const float* own_q, const float* q, size_t rank,
                   size_t rows, size_t columns, float* error, double* work);

  // Rows of M that are walked at once, at most.
  static constexpr size_t kRows = 4;
};

const LowRankKernels& low_rank_kernels(Isa isa = active_isa());

// The same typed out, an element at a time: for tests.
extern const LowRankKernels kLowRankReference;

}  // namespace dsjs
