// Layer and root-mean-square normalisation over the last axis of X [T, D], rows [begin, end).
//
// Gradients of gamma and beta are sums over rows. To keep them independent of the number of
// threads, the rows are cut into parts that depend on T alone; each part writes its sums to its own
// row of a scratch [parts, D], and sum_parts adds the rows in order:
//
//   parts = norm_parts(T);  scratch = float[2 · parts · D]
//   parallel p:    range = norm_part_rows(T, p);
//                  layer_norm_grad(..., scratch + p·D, scratch + (parts + p)·D, D, range.begin,
//                  range.end)
//   parallel c:    sum_parts(scratch, parts, D, dgamma, c.begin, c.end), the same for dbeta
#pragma once
#include <cstddef>

#include "core/isa.h"

namespace dsjs {

struct RowRange {
  size_t begin, end;
};

// At least 1, at most 32.
size_t norm_parts(size_t rows);
RowRange norm_part_rows(size_t rows, size_t part);

struct NormalizationKernels {
  // mean = Σx/D, rstd = 1/√(Σ(x − mean)²/D + epsilon), y = (x − mean)·rstd·gamma + beta.
  // Two passes over a row that stays in cache. beta may be null. y may be x.
  void (*layer_norm)(const float* x, const float* gamma, const float* beta, float* y, float* mean,
                     float* rstd, size_t D, float epsilon, size_t begin, size_t end);
  // With x̂ = (x − mean)·rstd and h = dy·gamma: dx = rstd·(h − Σh/D − x̂·Σ(h·x̂)/D).
  // dgamma_part[D] = Σ dy·x̂ and dbeta_part[D] = Σ dy over the rows given (overwritten, not added
  // to). dbeta_part may be null. residual, unless it is null, is added to dx. dx may be dy or
  // residual.
  void (*layer_norm_grad)(const float* dy, const float* x, const float* gamma, const float* mean,
                          const float* rstd, const float* residual, float* dx, float* dgamma_part,
                          float* dbeta_part, size_t D, size_t begin, size_t end);
  // rstd = 1/√(Σx²/D + epsilon), y = x·rstd·gamma. y may be x. (Zhang and Sennrich, arXiv
  // 1910.07467)
  void (*rms_norm)(const float* x, const float* gamma, float* y, float* rstd, size_t D,
                   float epsilon, size_t begin, size_t end);
  // As layer_norm_grad without the mean: dx = rstd·(h − x̂·Σ(h·x̂)/D), x̂ = x·rstd.
  void (*rms_norm_grad)(const float* dy, const float* x, const float* gamma, const float* rstd,
                        const float* residual, float* dx, float* dgamma_part, size_t D,
                        size_t begin, size_t end);
  // out[c] = Σ over parts, in order, of partials[part·D + c], for columns [begin, end).
  void (*sum_parts)(const float* partials, size_t parts, size_t D, float* out, size_t begin,
                    size_t end);
};

const NormalizationKernels& normalization_kernels(Isa isa = active_isa());
const NormalizationKernels& normalization_reference();

}  // namespace dsjs
