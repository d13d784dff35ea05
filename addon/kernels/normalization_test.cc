// Every instruction set against the formulas in double; gradients also against finite differences.
#include "kernels/normalization.h"

#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

struct Case {
  size_t T, D;
  // x = offset + uniform(−1, 1): a large offset is where a one-pass variance fails.
  float offset;
};
const Case kCases[] = {{1, 1, 0}, {3, 7, 0}, {40, 64, 0}, {33, 385, 0}, {5, 5000, 100}};
constexpr float kEps = 1e-5f;

struct Forward {
  std::vector<float> y, mean, rstd;
  Forward(size_t T, size_t D) : y(T * D), mean(T), rstd(T) {}
};

struct Backward {
  std::vector<float> dx, dgamma, dbeta;
  Backward(size_t T, size_t D) : dx(T * D), dgamma(D), dbeta(D) {}
};

void layer_grad_in_parts(const NormalizationKernels& kernels, const Case& c, const float* dy,
                         const float* x, const float* gamma, const Forward& f, Backward& b,
                         const float* residual = nullptr) {
  const size_t parts = norm_parts(c.T);
  std::vector<float> scratch(2 * parts * c.D, NAN);
  for (size_t p = parts; p-- > 0;) {
    const RowRange rows = norm_part_rows(c.T, p);
    kernels.layer_norm_grad(dy, x, gamma, f.mean.data(), f.rstd.data(), residual, b.dx.data(),
                            scratch.data() + p * c.D, scratch.data() + (parts + p) * c.D, c.D,
                            rows.begin, rows.end);
  }
  kernels.sum_parts(scratch.data(), parts, c.D, b.dgamma.data(), 0, c.D);
  kernels.sum_parts(scratch.data() + parts * c.D, parts, c.D, b.dbeta.data(), 0, c.D);
}

// What one row's rounding errors scale with: how large x is beside its spread.
double condition(const Forward& f, size_t row) { return 1 + std::fabs(f.mean[row]) * f.rstd[row]; }

void test_layer_norm(const Case& c) {
  Random random(c.D);
  std::vector<float> x = random.vector(c.T * c.D);
  for (float& v : x) v += c.offset;
  const std::vector<float> gamma = random.vector(c.D, 0.5, 1.5), beta = random.vector(c.D),
                           dy = random.vector(c.T * c.D);
  const NormalizationKernels& reference = normalization_reference();
  Forward want(c.T, c.D);
  Backward want_grad(c.T, c.D);
  reference.layer_norm(x.data(), gamma.data(), beta.data(), want.y.data(), want.mean.data(),
                       want.rstd.data(), c.D, kEps, 0, c.T);
  reference.layer_norm_grad(dy.data(), x.data(), gamma.data(), want.mean.data(), want.rstd.data(),
                            nullptr, want_grad.dx.data(), want_grad.dgamma.data(),
                            want_grad.dbeta.data(), c.D, 0, c.T);
  for_each_isa([&](Isa isa, const std::string& name) {
    const NormalizationKernels& fast = normalization_kernels(isa);
    Forward got(c.T, c.D);
    fast.layer_norm(x.data(), gamma.data(), beta.data(), got.y.data(), got.mean.data(),
                    got.rstd.data(), c.D, kEps, 0, c.T);
    close(name + "mean", got.mean, want.mean,
          [&](size_t t) { return kEpsilon * (1 + std::fabs(want.mean[t])); });
    close(name + "rstd", got.rstd, want.rstd,
          [&](size_t t) { return 4 * kEpsilon * want.rstd[t] * condition(want, t); });
    close(name + "layer norm", got.y, want.y, [&](size_t i) {
      return 6 * kEpsilon * (1 + std::fabs(want.y[i]) + std::fabs(beta[i % c.D])) *
             condition(want, i / c.D);
    });

    // Given the same mean and rstd: dx is a sum of terms of up to 1.5·(1 + x̂²)·rstd.
    Backward grad(c.T, c.D);
    layer_grad_in_parts(fast, c, dy.data(), x.data(), gamma.data(), want, grad);
    close(name + "layer norm dx", grad.dx, want_grad.dx, [&](size_t i) {
      const double normed = (x[i] - want.mean[i / c.D]) * want.rstd[i / c.D];
      return 4 * kEpsilon * want.rstd[i / c.D] * 1.5 * (1 + std::fabs(normed));
    });
    // A sum of T terms in fp32: T/2 roundings of at most the sum of magnitudes, here 2 each.
    const double sum_error = kEpsilon * (4 + c.T) * std::sqrt(c.T);
    close(name + "dgamma", grad.dgamma, want_grad.dgamma, [&](size_t) { return sum_error * 2; });
    close(name + "dbeta", grad.dbeta, want_grad.dbeta, [&](size_t) { return sum_error; });

    // In place, both ways.
    std::vector<float> y = x, dx = dy;
    Forward again(c.T, c.D);
    fast.layer_norm(y.data(), gamma.data(), beta.data(), y.data(), again.mean.data(),
                    again.rstd.data(), c.D, kEps, 0, c.T);
    CHECK_MESSAGE(y == got.y, name);
    Backward in_place(c.T, c.D);
    in_place.dx = dy;
    layer_grad_in_parts(fast, c, in_place.dx.data(), x.data(), gamma.data(), want, in_place);
    CHECK_MESSAGE(in_place.dx == grad.dx && in_place.dgamma == grad.dgamma, name);

    // With a residual: its sum with dx, also where dx overwrites it.
    Backward residual(c.T, c.D);
    residual.dx = x;
    layer_grad_in_parts(fast, c, dy.data(), x.data(), gamma.data(), want, residual,
                        residual.dx.data());
    for (size_t i = 0; i < c.T * c.D; ++i) CHECK_MESSAGE(residual.dx[i] == grad.dx[i] + x[i], name);
    CHECK_MESSAGE(residual.dgamma == grad.dgamma, name);

    // Without beta: y is the same less beta, up to the rounding of the sum.
    fast.layer_norm(x.data(), gamma.data(), nullptr, again.y.data(), again.mean.data(),
                    again.rstd.data(), c.D, kEps, 0, c.T);
    std::vector<float> shifted(got.y.size());
    for (size_t i = 0; i < shifted.size(); ++i) shifted[i] = again.y[i] + beta[i % c.D];
    close(name + "no beta", shifted, got.y,
          [&](size_t i) { return 2 * kEpsilon * (1 + std::fabs(again.y[i])); });
  });
}

void test_rms_norm(const Case& c) {
  Random random(c.D + 1);
  std::vector<float> x = random.vector(c.T * c.D);
  for (float& v : x) v += c.offset;
  const std::vector<float> gamma = random.vector(c.D, 0.5, 1.5), dy = random.vector(c.T * c.D);
  const NormalizationKernels& reference = normalization_reference();
  Forward want(c.T, c.D);
  Backward want_grad(c.T, c.D);
  reference.rms_norm(x.data(), gamma.data(), want.y.data(), want.rstd.data(), c.D, kEps, 0, c.T);
  reference.rms_norm_grad(dy.data(), x.data(), gamma.data(), want.rstd.data(), nullptr,
                          want_grad.dx.data(), want_grad.dgamma.data(), c.D, 0, c.T);
  for_each_isa([&](Isa isa, const std::string& name) {
    const NormalizationKernels& fast = normalization_kernels(isa);
    Forward got(c.T, c.D);
    fast.rms_norm(x.data(), gamma.data(), got.y.data(), got.rstd.data(), c.D, kEps, 0, c.T);
    close(name + "rms rstd", got.rstd, want.rstd,
          [&](size_t t) { return 4 * kEpsilon * want.rstd[t]; });
    close(name + "rms norm", got.y, want.y,
          [&](size_t i) { return 6 * kEpsilon * std::fabs(want.y[i]); });
    Backward grad(c.T, c.D);
    const size_t parts = norm_parts(c.T);
    std::vector<float> scratch(parts * c.D, NAN);
    for (size_t p = 0; p < parts; ++p) {
      const RowRange rows = norm_part_rows(c.T, p);
      fast.rms_norm_grad(dy.data(), x.data(), gamma.data(), want.rstd.data(), nullptr,
                         grad.dx.data(), scratch.data() + p * c.D, c.D, rows.begin, rows.end);
    }
    fast.sum_parts(scratch.data(), parts, c.D, grad.dgamma.data(), 0, c.D);
    std::vector<float> sum = x, dgamma(c.D);
    fast.rms_norm_grad(dy.data(), x.data(), gamma.data(), want.rstd.data(), sum.data(), sum.data(),
                       dgamma.data(), c.D, 0, c.T);
    for (size_t i = 0; i < c.T * c.D; ++i) CHECK_MESSAGE(sum[i] == grad.dx[i] + x[i], name);
    close(name + "rms dx", grad.dx, want_grad.dx, [&](size_t i) {
      const double normed = x[i] * want.rstd[i / c.D];
      return 4 * kEpsilon * want.rstd[i / c.D] * 1.5 * (1 + std::fabs(normed));
    });
    close(name + "rms dgamma", grad.dgamma, want_grad.dgamma,
          [&](size_t) { return kEpsilon * (4 + c.T) * std::sqrt(c.T) * 2; });
  });
}

// The reference itself: its dx against central differences of its forward pass.
void test_reference_against_differences() {
  const size_t T = 2, D = 9;
  Random random(5);
  const std::vector<float> x = random.vector(T * D), gamma = random.vector(D, 0.5, 1.5),
                           beta = random.vector(D), dy = random.vector(T * D);
  const NormalizationKernels& reference = normalization_reference();
  Forward f(T, D);
  Backward b(T, D);
  reference.layer_norm(x.data(), gamma.data(), beta.data(), f.y.data(), f.mean.data(),
                       f.rstd.data(), D, kEps, 0, T);
  reference.layer_norm_grad(dy.data(), x.data(), gamma.data(), f.mean.data(), f.rstd.data(),
                            nullptr, b.dx.data(), b.dgamma.data(), b.dbeta.data(), D, 0, T);
  const auto loss = [&](const std::vector<float>& input) {
    Forward out(T, D);
    reference.layer_norm(input.data(), gamma.data(), beta.data(), out.y.data(), out.mean.data(),
                         out.rstd.data(), D, kEps, 0, T);
    double total = 0;
    for (size_t i = 0; i < T * D; ++i) total += double{out.y[i]} * dy[i];
    return total;
  };
  // Truncation h²·f‴/6 and rounding T·D·ε/h meet near 1e-3 for h = 2⁻⁹.
  for (size_t i = 0; i < T * D; ++i) {
    std::vector<float> up = x, down = x;
    up[i] += 0x1p-9f;
    down[i] -= 0x1p-9f;
    const double slope = (loss(up) - loss(down)) / (double{up[i]} - down[i]);
    CHECK_MESSAGE(std::fabs(slope - b.dx[i]) < 1e-3 * (1 + std::fabs(slope)),
                  std::to_string(slope));
  }
}

void test_parts_cover_rows() {
  for (size_t T : {size_t{0}, size_t{1}, size_t{31}, size_t{32}, size_t{1000}, size_t{5001}}) {
    size_t at = 0;
    for (size_t p = 0; p < norm_parts(T); ++p) {
      const RowRange rows = norm_part_rows(T, p);
      CHECK(rows.begin == at && rows.end >= rows.begin);
      at = rows.end;
    }
    CHECK(at == T);
  }
}

}  // namespace

int main() {
  for (const Case& c : kCases) {
    test_layer_norm(c);
    test_rms_norm(c);
  }
  test_reference_against_differences();
  test_parts_cover_rows();
  return summary();
}
