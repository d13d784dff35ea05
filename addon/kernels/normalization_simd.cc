#include "kernels/normalization.h"
#include "kernels/row_math.h"

namespace dsjs::DSJS_ISA {
namespace {

void layer_norm(const float* x, const float* gamma, const float* beta, float* y, float* mean,
                float* rstd, size_t D, float epsilon, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    const float* row = x + t * D;
    const auto row_mean = static_cast<float>(row_sum(
                                                 D, [](F32 v) { return v; }, row) /
                                             D);
    const F32 m = splat(row_mean);
    const double squares = row_sum(
        D, [m](F32 v) { return (v - m) * (v - m); }, row);
    const auto row_rstd = static_cast<float>(1 / __builtin_sqrt(squares / D + epsilon));
    const F32 r = splat(row_rstd);
    if (beta)
      map(
          y + t * D, 0, D, [m, r](F32 v, F32 g, F32 b) { return fma((v - m) * r, g, b); }, row,
          gamma, beta);
    else
      map(
          y + t * D, 0, D, [m, r](F32 v, F32 g) { return (v - m) * r * g; }, row, gamma);
    mean[t] = row_mean;
    rstd[t] = row_rstd;
  }
}

void rms_norm(const float* x, const float* gamma, float* y, float* rstd, size_t D, float epsilon,
              size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    const float* row = x + t * D;
    const double squares = row_sum(
        D, [](F32 v) { return v * v; }, row);
    const auto row_rstd = static_cast<float>(1 / __builtin_sqrt(squares / D + epsilon));
    const F32 r = splat(row_rstd);
    map(
        y + t * D, 0, D, [r](F32 v, F32 g) { return v * r * g; }, row, gamma);
    rstd[t] = row_rstd;
  }
}

// part[0, D) += fn(x...), vector by vector.
template <class Fn, class... Inputs>
inline void add_to(float* part, size_t D, Fn fn, const Inputs*... x) {
  map(
      part, 0, D, [fn](F32 sum, auto... v) { return fn(sum, v...); }, part, x...);
}

// dx[0, D) = fn(dy, gamma, x), plus the residual when there is one.
template <class Fn>
inline void store_gradient(float* dx, size_t D, const float* residual, Fn fn, const float* dy,
                           const float* gamma, const float* x) {
  if (residual)
    map(
        dx, 0, D, [fn](F32 d, F32 g, F32 v, F32 more) { return fn(d, g, v) + more; }, dy, gamma, x,
        residual);
  else
    map(dx, 0, D, fn, dy, gamma, x);
}

void layer_norm_grad(const float* dy, const float* x, const float* gamma, const float* mean,
                     const float* rstd, const float* residual, float* dx, float* dgamma_part,
                     float* dbeta_part, size_t D, size_t begin, size_t end) {
  std::memset(dgamma_part, 0, D * sizeof(float));
  if (dbeta_part) std::memset(dbeta_part, 0, D * sizeof(float));
  for (size_t t = begin; t < end; ++t) {
    const float* row = x + t * D;
    const float* slope = dy + t * D;
    const F32 m = splat(mean[t]), r = splat(rstd[t]);
    const double mean_h = row_sum(
                              D, [](F32 d, F32 g) { return d * g; }, slope, gamma) /
                          D;
    const double mean_hx =
        row_sum(
            D, [m, r](F32 d, F32 g, F32 v) { return d * g * ((v - m) * r); }, slope, gamma, row) /
        D;
    // The sums over rows come before dx, which may overwrite dy.
    add_to(
        dgamma_part, D, [m, r](F32 sum, F32 d, F32 v) { return fma(d, (v - m) * r, sum); }, slope,
        row);
    if (dbeta_part)
      add_to(
          dbeta_part, D, [](F32 sum, F32 d) { return sum + d; }, slope);
    const F32 c0 = splat(static_cast<float>(mean_h)), c1 = splat(static_cast<float>(mean_hx));
    const auto gradient = [=](F32 d, F32 g, F32 v) { return r * (d * g - c0 - (v - m) * r * c1); };
    store_gradient(dx + t * D, D, residual ? residual + t * D : nullptr, gradient, slope, gamma,
                   row);
  }
}

void rms_norm_grad(const float* dy, const float* x, const float* gamma, const float* rstd,
                   const float* residual, float* dx, float* dgamma_part, size_t D, size_t begin,
                   size_t end) {
  std::memset(dgamma_part, 0, D * sizeof(float));
  for (size_t t = begin; t < end; ++t) {
    const float* row = x + t * D;
    const float* slope = dy + t * D;
    const F32 r = splat(rstd[t]);
    const double mean_hx =
        row_sum(
            D, [r](F32 d, F32 g, F32 v) { return d * g * (v * r); }, slope, gamma, row) /
        D;
    add_to(
        dgamma_part, D, [r](F32 sum, F32 d, F32 v) { return fma(d, v * r, sum); }, slope, row);
    const F32 c1 = splat(static_cast<float>(mean_hx));
    const auto gradient = [=](F32 d, F32 g, F32 v) { return r * (d * g - v * r * c1); };
    store_gradient(dx + t * D, D, residual ? residual + t * D : nullptr, gradient, slope, gamma,
                   row);
  }
}

void sum_parts(const float* partials, size_t parts, size_t D, float* out, size_t begin,
               size_t end) {
  std::memcpy(out + begin, partials + begin, (end - begin) * sizeof(float));
  for (size_t part = 1; part < parts; ++part)
    map(
        out, begin, end, [](F32 sum, F32 v) { return sum + v; }, out, partials + part * D);
}

}  // namespace

extern const NormalizationKernels normalization;
const NormalizationKernels normalization = {layer_norm, layer_norm_grad, rms_norm, rms_norm_grad,
                                            sum_parts};

}  // namespace dsjs::DSJS_ISA
