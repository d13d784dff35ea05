// Every instruction set against the formulas in double.
#include "kernels/softmax.h"

#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr int64_t kIgnore = -100;

struct Case {
  size_t T, V;
  float spread;
};
const Case kCases[] = {{1, 1, 1}, {5, 13, 4}, {4, 50257, 8}, {3, 32000, 0}, {6, 100, 80}};

void test_cross_entropy(const Case& c) {
  Random random(c.V);
  const std::vector<float> logits = random.vector(c.T * c.V, -c.spread, c.spread);
  const std::vector<float> dloss = random.vector(c.T);
  std::vector<int64_t> labels(c.T);
  for (size_t t = 0; t < c.T; ++t)
    labels[t] = t == 1 ? kIgnore : static_cast<int64_t>(random.bits() % c.V);
  check_labels(labels.data(), c.T, c.V, kIgnore);
  const SoftmaxKernels& reference = softmax_reference();
  std::vector<float> want_loss(c.T), want_lse(c.T), want_grad(c.T * c.V);
  reference.cross_entropy(logits.data(), labels.data(), want_loss.data(), want_lse.data(), c.V,
                          kIgnore, 0, c.T);
  reference.cross_entropy_grad(dloss.data(), logits.data(), labels.data(), want_lse.data(),
                               want_grad.data(), c.V, kIgnore, 0, c.T);
  for_each_isa([&](Isa isa, const std::string& name) {
    const SoftmaxKernels& fast = softmax_kernels(isa);
    std::vector<float> loss(c.T, 9), lse(c.T), grad(c.T * c.V);
    fast.cross_entropy(logits.data(), labels.data(), loss.data(), lse.data(), c.V, kIgnore, 0, c.T);
    // The sum of exponentials is off by relative 1e-6 at most, its logarithm by as much absolutely.
    close(name + "lse", lse, want_lse,
          [&](size_t t) { return 1e-6 + kEpsilon * std::fabs(want_lse[t]); });
    close(name + "loss", loss, want_loss,
          [&](size_t t) { return 1e-6 + kEpsilon * std::fabs(want_lse[t]); });
    if (c.T > 1) CHECK_MESSAGE(loss[1] == 0, name);

    // The exponent logits − lse is rounded once; probabilities inherit that as a relative error.
    fast.cross_entropy_grad(dloss.data(), logits.data(), labels.data(), want_lse.data(),
                            grad.data(), c.V, kIgnore, 0, c.T);
    close(name + "dlogits", grad, want_grad, [&](size_t i) {
      const double exponent = std::fabs(logits[i] - want_lse[i / c.V]);
      const bool target = labels[i / c.V] == static_cast<int64_t>(i % c.V);
      const double probability = std::exp(-exponent);
      return kEpsilon * std::fabs(dloss[i / c.V]) *
                 ((4 + std::fmin(exponent, 87)) * probability + (target ? 1 : 0)) +
             0x1p-124;
    });
    std::vector<float> in_place = logits;
    fast.cross_entropy_grad(dloss.data(), in_place.data(), labels.data(), want_lse.data(),
                            in_place.data(), c.V, kIgnore, 0, c.T);
    CHECK_MESSAGE(in_place == grad, name);

    // The same without the target: its element aside, the same bits.
    std::vector<float> scaled = logits;
    fast.scaled_softmax(dloss.data(), scaled.data(), want_lse.data(), scaled.data(), c.V, 0, c.T);
    bool same = true;
    for (size_t i = 0; i < scaled.size(); ++i) {
      const int64_t label = labels[i / c.V];
      if (label == kIgnore) continue;
      const float target = label == static_cast<int64_t>(i % c.V) ? dloss[i / c.V] : 0.0f;
      same = same && scaled[i] - target == grad[i];
    }
    CHECK_MESSAGE(same, name);
  });
}

void test_masked_and_broken_rows() {
  const std::vector<float> logits = {-INFINITY, 1, -INFINITY, 2, NAN, 0, 0, 0, INFINITY, 0, 0, 0};
  const std::vector<int64_t> labels = {3, 0, 1};
  for_each_isa([&](Isa isa, const std::string& name) {
    std::vector<float> loss(3), lse(3);
    softmax_kernels(isa).cross_entropy(logits.data(), labels.data(), loss.data(), lse.data(), 4,
                                       kIgnore, 0, 3);
    CHECK_MESSAGE(std::fabs(lse[0] - std::log(std::exp(1.0) + std::exp(2.0))) < 1e-6, name);
    CHECK_MESSAGE(std::isnan(loss[1]), name);
    CHECK_MESSAGE(std::isnan(loss[2]), name);
  });
}

void test_labels() {
  const std::vector<int64_t> labels = {0, kIgnore, 4};
  CHECK_THROWS_CODE(check_labels(labels.data(), 3, 4, kIgnore), "INVALID_ARGUMENT");
  const std::vector<int64_t> negative = {-1};
  CHECK_THROWS_CODE(check_labels(negative.data(), 1, 4, kIgnore), "INVALID_ARGUMENT");
}

void test_softmax_grad() {
  const size_t T = 7, D = 133;
  Random random(2);
  const std::vector<float> dy = random.vector(T * D), y = random.vector(T * D, 0, 2.0f / D);
  std::vector<float> want(T * D);
  softmax_reference().softmax_grad(dy.data(), y.data(), want.data(), D, 0, T);
  for_each_isa([&](Isa isa, const std::string& name) {
    std::vector<float> got(T * D), in_place = dy;
    softmax_kernels(isa).softmax_grad(dy.data(), y.data(), got.data(), D, 0, 3);
    softmax_kernels(isa).softmax_grad(dy.data(), y.data(), got.data(), D, 3, T);
    softmax_kernels(isa).softmax_grad(in_place.data(), y.data(), in_place.data(), D, 0, T);
    close(name + "softmax grad", got, want, [&](size_t i) { return 4 * kEpsilon * 2 * y[i]; });
    CHECK_MESSAGE(got == in_place, name);
  });
}

}  // namespace

int main() {
  for (const Case& c : kCases) test_cross_entropy(c);
  test_masked_and_broken_rows();
  test_labels();
  test_softmax_grad();
  return summary();
}
