// Against the formulas in double over all scores at once.
//
// A score errs by at most γ_D·Σ|x·w| =: e (gemm_test.cc). The log-sum-exp inherits the largest e of
// its row, the sum's 1e-6 (kernels/softmax_test.cc) once for each chunk, and its own rounding; a
// probability inherits e + 1e-6 as a relative error, and the gradients sum slopes as products do.
#include "gemm/linear_cross_entropy.h"

#include "core/half.h"
#include "gemm/gemm.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr double kUnit = 0x1p-24;
constexpr int64_t kIgnore = -100;

struct Case {
  size_t T, D, V;
  bool transposed;
};
// The last two need several chunks, of classes and of rows.
const Case kCases[] = {{1, 1, 1, false},      {7, 5, 13, false},     {33, 20, 101, true},
                       {0, 4, 9, false},      {5, 0, 3, false},      {1500, 3, 5003, false},
                       {1500, 3, 5003, true}, {4099, 2, 1100, false}};

void test(const Case& c) {
  Random random(c.T * 31 + c.V);
  const std::vector<float> x = random.vector(c.T * c.D, -2, 2), w = random.vector(c.V * c.D, -2, 2);
  const std::vector<float> dloss = random.vector(c.T), old = random.vector(c.V * c.D);
  std::vector<int64_t> labels(c.T);
  for (size_t t = 0; t < c.T; ++t)
    labels[t] = t % 5 == 1 ? kIgnore : static_cast<int64_t>(random.bits() % c.V);
  const LinearCrossEntropy problem{c.T,      c.D,          c.V,           x.data(),
                                   w.data(), c.transposed, labels.data(), kIgnore};
  const auto w_at = [&](size_t v, size_t d) { return c.transposed ? d * c.V + v : v * c.D + d; };

  std::vector<float> want_loss(c.T), want_lse(c.T), want_dx(c.T * c.D);
  std::vector<double> off(c.T), dx(c.T * c.D), dx_size(c.T * c.D), dw(w.size()), dw_size(w.size());
  std::vector<double> scores(c.V);
  for (size_t t = 0; t < c.T; ++t) {
    double top = -HUGE_VAL, total = 0;
    for (size_t v = 0; v < c.V; ++v) {
      double size = 0;
      scores[v] = 0;
      for (size_t d = 0; d < c.D; ++d) {
        const double term = double{x[t * c.D + d]} * w[w_at(v, d)];
        scores[v] += term;
        size += std::fabs(term);
      }
      off[t] = std::fmax(off[t], static_cast<double>(c.D + 1) * kUnit * size);
      top = std::fmax(top, scores[v]);
    }
    for (size_t v = 0; v < c.V; ++v) total += std::exp(scores[v] - top);
    const double lse = top + std::log(total);
    const bool ignored = labels[t] == kIgnore;
    want_lse[t] = static_cast<float>(lse);
    want_loss[t] = ignored ? 0 : static_cast<float>(lse - scores[labels[t]]);
    for (size_t v = 0; v < c.V && !ignored; ++v) {
      const double probability = std::exp(scores[v] - lse);
      const double target = labels[t] == static_cast<int64_t>(v) ? 1 : 0;
      const double slope = dloss[t] * (probability - target);
      const double size = std::fabs(dloss[t]) * (probability + target);
      for (size_t d = 0; d < c.D; ++d) {
        const double to_x = w[w_at(v, d)], to_w = x[t * c.D + d];
        // Relative to slope: a score's and the log-sum-exp's errors, and the sum's.
        const double each = off[t] * 2 + 2e-6 + kEpsilon * std::fabs(lse);
        dx[t * c.D + d] += slope * to_x;
        dx_size[t * c.D + d] += size * std::fabs(to_x) * (each + static_cast<double>(c.V) * kUnit);
        dw[w_at(v, d)] += slope * to_w;
        dw_size[w_at(v, d)] += size * std::fabs(to_w) * (each + static_cast<double>(c.T) * kUnit);
      }
    }
  }
  for (size_t i = 0; i < dx.size(); ++i) want_dx[i] = static_cast<float>(dx[i]);

  for_each_isa([&](Isa isa, const std::string& name) {
    Serial alone;
    std::vector<float> memory(linear_cross_entropy_scratch(problem, 1, isa) + 16);
    auto* scratch =
        reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    std::vector<float> loss(c.T, 9), lse(c.T, 9);
    linear_cross_entropy(problem, loss.data(), lse.data(), alone, scratch, isa);
    if (c.T == 0) return;
    close(name + "lse", lse, want_lse,
          [&](size_t t) { return off[t] + 4e-6 + 4 * kEpsilon * std::fabs(want_lse[t]); });
    close(name + "loss", loss, want_loss,
          [&](size_t t) { return 2 * off[t] + 4e-6 + 4 * kEpsilon * std::fabs(want_lse[t]); });

    for (bool add : {false, true}) {
      std::vector<float> got_dx(c.T * c.D, 9), got_dw = old, want_dw(w.size());
      for (size_t i = 0; i < dw.size(); ++i)
        want_dw[i] = static_cast<float>(dw[i] + (add ? old[i] : 0));
      linear_cross_entropy_grad(problem, {dloss.data()}, want_lse.data(), got_dx.data(),
                                got_dw.data(), add, alone, scratch, isa);
      if (c.D == 0) continue;
      close(name + "dx", got_dx, want_dx, [&](size_t i) { return dx_size[i] + 1e-30; });
      close(name + "dw", got_dw, want_dw,
            [&](size_t i) { return dw_size[i] + 2 * kEpsilon * std::fabs(want_dw[i]) + 1e-30; });
      std::vector<float> no_dw(c.T * c.D);
      linear_cross_entropy_grad(problem, {dloss.data()}, want_lse.data(), no_dw.data(), nullptr,
                                false, alone, scratch, isa);
      CHECK_MESSAGE(no_dw == got_dx, name);
    }
  });
}

// W in 16 bits gives the bits that its widened copy gives.
void test_widened_w(DType dtype, bool transposed) {
  const size_t T = 70, D = 40, V = 90;
  Random random(11);
  const std::vector<float> x = random.vector(T * D, -2, 2), dloss = random.vector(T);
  std::vector<float> w = random.vector(V * D, -2, 2);
  std::vector<uint16_t> w16(w.size());
  convert_floats(w.data(), DType::kFloat32, w16.data(), dtype, w.size());
  convert_floats(w16.data(), dtype, w.data(), DType::kFloat32, w.size());
  std::vector<int64_t> labels(T);
  for (int64_t& label : labels) label = static_cast<int64_t>(random.bits() % V);
  const LinearCrossEntropy wide{T, D, V, x.data(), w.data(), transposed, labels.data(), kIgnore};
  LinearCrossEntropy narrow = wide;
  narrow.w = w16.data();
  narrow.w_dtype = dtype;
  for_each_isa([&](Isa isa, const std::string& name) {
    Serial alone;
    std::vector<float> memory(linear_cross_entropy_scratch(wide, 1, isa) + 16);
    auto* scratch =
        reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    std::vector<float> results[2];
    for (bool stored : {false, true}) {
      const LinearCrossEntropy& problem = stored ? narrow : wide;
      std::vector<float> loss(T), lse(T), dx(T * D), dw(V * D);
      linear_cross_entropy(problem, loss.data(), lse.data(), alone, scratch, isa);
      linear_cross_entropy_grad(problem, {dloss.data()}, lse.data(), dx.data(), dw.data(), false,
                                alone, scratch, isa);
      std::vector<float>& all = results[stored];
      for (const auto& part : {loss, lse, dx, dw}) all.insert(all.end(), part.begin(), part.end());
    }
    CHECK_MESSAGE(results[0] == results[1], name + dtype_name(dtype));
  });
}

// Without rows a gradient that replaces is zero.
void test_no_rows() {
  const std::vector<float> w(12, 1);
  const LinearCrossEntropy problem{0, 4, 3, nullptr, w.data(), false, nullptr, kIgnore};
  for_each_isa([&](Isa isa, const std::string& name) {
    Serial alone;
    std::vector<float> memory(linear_cross_entropy_scratch(problem, 1, isa) + 16), dw(12, 5);
    linear_cross_entropy_grad(problem, {nullptr}, nullptr, nullptr, dw.data(), false, alone,
                              memory.data(), isa);
    CHECK_MESSAGE(dw == std::vector<float>(12, 0), name);
  });
}

// A gradient through lse as well: with dlse = −dloss where labels count, softmax drops out of the
// slopes, and what remains is −dloss at the label; elsewhere dlse alone scales the softmax.
void test_through_lse(bool transposed) {
  const size_t T = 37, D = 6, V = 50;
  Random random(7);
  const std::vector<float> x = random.vector(T * D, -2, 2), w = random.vector(V * D, -2, 2);
  const std::vector<float> dloss = random.vector(T);
  std::vector<int64_t> labels(T), all(T);
  std::vector<float> dlse(T);
  for (size_t t = 0; t < T; ++t) {
    all[t] = static_cast<int64_t>(random.bits() % V);
    labels[t] = t % 3 == 1 ? kIgnore : all[t];
    dlse[t] = t % 3 == 1 ? dloss[t] : -dloss[t];
  }
  const LinearCrossEntropy problem{T, D, V, x.data(), w.data(), transposed, labels.data(), kIgnore};
  const auto w_at = [&](size_t v, size_t d) { return transposed ? d * V + v : v * D + d; };
  for_each_isa([&](Isa isa, const std::string& name) {
    Serial alone;
    std::vector<float> memory(linear_cross_entropy_scratch(problem, 1, isa) + 16);
    auto* scratch =
        reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    std::vector<float> loss(T), lse(T), dx(T * D), plain(T * D);
    linear_cross_entropy(problem, loss.data(), lse.data(), alone, scratch, isa);
    linear_cross_entropy_grad(problem, {dloss.data(), dlse.data()}, lse.data(), dx.data(), nullptr,
                              false, alone, scratch, isa);
    // The softmax of ignored rows: the plain gradient of a label, and that label's part taken off.
    const LinearCrossEntropy counted{T, D, V, x.data(), w.data(), transposed, all.data(), kIgnore};
    linear_cross_entropy_grad(counted, {dloss.data()}, lse.data(), plain.data(), nullptr, false,
                              alone, scratch, isa);
    std::vector<float> want(T * D);
    for (size_t t = 0; t < T; ++t)
      for (size_t d = 0; d < D; ++d) {
        const float hit = dloss[t] * w[w_at(static_cast<size_t>(all[t]), d)];
        want[t * D + d] = t % 3 == 1 ? plain[t * D + d] + hit : -hit;
      }
    // V slopes of at most |dloss| times weights up to 2, each with a few roundings.
    close(name + "dx through lse", dx, want,
          [&](size_t i) { return 4.0 * V * kUnit * 2 * std::fabs(dloss[i / D]) + 1e-30; });
  });
}

}  // namespace

int main() {
  for (const Case& c : kCases) test(c);
  test_through_lse(false);
  test_through_lse(true);
  test_no_rows();
  for (DType dtype : {DType::kBFloat16, DType::kFloat16})
    for (bool transposed : {false, true}) test_widened_w(dtype, transposed);
  return summary();
}
