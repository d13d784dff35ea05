// The formulas of kernels/normalization.h typed out in double.
#include <cmath>
#include <vector>

#include "kernels/normalization.h"

namespace dsjs {

// Few enough parts that their sum is cheap, many enough for 32 threads; none below 16 rows.
size_t norm_parts(size_t rows) {
  const size_t parts = rows / 16;
  return parts < 1 ? 1 : parts > 32 ? 32 : parts;
}

RowRange norm_part_rows(size_t rows, size_t part) {
  const size_t parts = norm_parts(rows);
  return {rows * part / parts, rows * (part + 1) / parts};
}

namespace {

void normalize(const float* x, const float* gamma, const float* beta, float* y, double mean,
               double rstd, size_t D) {
  for (size_t c = 0; c < D; ++c)
    y[c] = static_cast<float>((x[c] - mean) * rstd * gamma[c] + (beta ? beta[c] : 0));
}

void layer_norm(const float* x, const float* gamma, const float* beta, float* y, float* mean,
                float* rstd, size_t D, float epsilon, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    double m = 0, squares = 0;
    for (size_t c = 0; c < D; ++c) m += x[t * D + c];
    m /= D;
    for (size_t c = 0; c < D; ++c) squares += (x[t * D + c] - m) * (x[t * D + c] - m);
    const double r = 1 / std::sqrt(squares / D + epsilon);
    normalize(x + t * D, gamma, beta, y + t * D, m, r, D);
    mean[t] = static_cast<float>(m);
    rstd[t] = static_cast<float>(r);
  }
}

void rms_norm(const float* x, const float* gamma, float* y, float* rstd, size_t D, float epsilon,
              size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    double squares = 0;
    for (size_t c = 0; c < D; ++c) squares += double{x[t * D + c]} * x[t * D + c];
    const double r = 1 / std::sqrt(squares / D + epsilon);
    normalize(x + t * D, gamma, nullptr, y + t * D, 0, r, D);
    rstd[t] = static_cast<float>(r);
  }
}

// `mean` null: root-mean-square normalisation, which subtracts nothing.
void norm_grad(const float* dy, const float* x, const float* gamma, const float* mean,
               const float* rstd, const float* residual, float* dx, float* dgamma_part,
               float* dbeta_part, size_t D, size_t begin, size_t end) {
  std::vector<double> dgamma(D), dbeta(D), normed(D), h(D);
  for (size_t t = begin; t < end; ++t) {
    double mean_h = 0, mean_hx = 0;
    for (size_t c = 0; c < D; ++c) {
      normed[c] = (x[t * D + c] - (mean ? double{mean[t]} : 0)) * rstd[t];
      h[c] = double{dy[t * D + c]} * gamma[c];
      mean_h += h[c] / D;
      mean_hx += h[c] * normed[c] / D;
      dgamma[c] += dy[t * D + c] * normed[c];
      dbeta[c] += dy[t * D + c];
    }
    for (size_t c = 0; c < D; ++c)
      dx[t * D + c] =
          static_cast<float>(rstd[t] * (h[c] - (mean ? mean_h : 0) - normed[c] * mean_hx) +
                             (residual ? residual[t * D + c] : 0));
  }
  for (size_t c = 0; c < D; ++c) {
    dgamma_part[c] = static_cast<float>(dgamma[c]);
    if (dbeta_part) dbeta_part[c] = static_cast<float>(dbeta[c]);
  }
}

void rms_norm_grad(const float* dy, const float* x, const float* gamma, const float* rstd,
                   const float* residual, float* dx, float* dgamma_part, size_t D, size_t begin,
                   size_t end) {
  norm_grad(dy, x, gamma, nullptr, rstd, residual, dx, dgamma_part, nullptr, D, begin, end);
}

void sum_parts(const float* partials, size_t parts, size_t D, float* out, size_t begin,
               size_t end) {
  for (size_t c = begin; c < end; ++c) {
    double sum = 0;
    for (size_t part = 0; part < parts; ++part) sum += partials[part * D + c];
    out[c] = static_cast<float>(sum);
  }
}

}  // namespace

const NormalizationKernels& normalization_reference() {
  static constexpr NormalizationKernels table = {layer_norm, norm_grad, rms_norm, rms_norm_grad,
                                                 sum_parts};
  return table;
}

}  // namespace dsjs
