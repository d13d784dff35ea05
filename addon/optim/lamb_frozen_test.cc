// Twenty steps of frozen LAMB on every instruction set beside the same in double; elements without
// second moments; bounds and threshold of the factor; the average of trust ratios.
#include "optim/lamb_frozen.h"

#include "core/half.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr int kSteps = 20;

OptimizerHyper hyper_of(double weight_decay, bool correction) {
  OptimizerHyper hyper{1e-2, 0.9, 0.99, 1e-6, weight_decay, correction};
  hyper.correction2 = correction ? 0.3 : 0;
  hyper.coeff_beta = 0.9;
  hyper.factor_min = 0.5;
  hyper.factor_max = 4;
  hyper.factor_threshold = 0.1;
  return hyper;
}

// Second moments as gradients of about 1 leave them; every seventh element never had one.
std::vector<float> moments_of(size_t count) {
  std::vector<float> v = Random(21).vector(count, 0.2f, 0.4f);
  for (size_t i = 0; i < count; i += 7) v[i] = 0;
  return v;
}
std::vector<float> momentum_of(int step, size_t count) {
  return Random(500 + static_cast<uint64_t>(step)).vector(count);
}

struct State {
  std::vector<float> master, fresh;
  TrustRatio ratio;
};

State run(const OptimizerHyper& hyper, size_t count, Isa isa) {
  std::vector<float> v = moments_of(count);
  State state{Random(11).vector(count), v, {0.5f, 0}};
  for (int step = 1; step <= kSteps; ++step) {
    const std::vector<float> momentum = momentum_of(step, count);
    std::vector<float> previous = momentum_of(step - 1, count);
    const OptimizerArrays arrays{state.master.data(), momentum.data(), v.data(), state.fresh.data(),
                                 previous.data()};
    const auto t = static_cast<uint64_t>(step + 30);
    FrozenSums sums;
    for (size_t begin = 0; begin < count; begin += kNormBlock)
      sums.add(
          lamb_frozen_moments(hyper, t, arrays, begin, std::min(count, begin + kNormBlock), isa));
    lamb_frozen_apply(hyper, t, frozen_coefficient(hyper, sums, state.ratio), arrays, 0, count,
                      isa);
  }
  return state;
}

void test_against_double(const OptimizerHyper& hyper, size_t count) {
  const std::vector<float> start = Random(11).vector(count), v32 = moments_of(count);
  std::vector<double> master(start.begin(), start.end()), v(v32.begin(), v32.end()), fresh = v;
  double factor = 1;
  for (int step = 1; step <= kSteps; ++step)
    lamb_frozen_reference(hyper, static_cast<uint64_t>(step + 30), 0.5, master.data(),
                          momentum_of(step, count).data(), v.data(), fresh.data(),
                          momentum_of(step - 1, count).data(), factor, count);
  const std::vector<float> want(master.begin(), master.end());
  const std::vector<float> want_fresh(fresh.begin(), fresh.end());
  for_each_isa([&](Isa isa, const std::string& name) {
    const State got = run(hyper, count, isa);
    const std::string what =
        name + std::to_string(count) + " decay " + std::to_string(hyper.weight_decay);
    // Reconstructing divides by 1 − β1: ten times the rounding of two momenta of at most 1, in a
    // gradient of at most 19; its square enters with weight 0.01. A step rounds f three times more.
    close(what + " fresh moments", got.fresh, want_fresh,
          [&](size_t i) { return kSteps * kEpsilon * (4 + 4 * std::fabs(double{want_fresh[i]})); });
    // A move is at most lr·c̄·r·(1/(0.6·√0.2) + decay): 0.1. It inherits the roundings of u₀ (six)
    // and, through r, those of f.
    close(what + " weights", got.master, want,
          [&](size_t i) { return kSteps * kEpsilon * (1 + std::fabs(double{want[i]})); });
    CHECK_MESSAGE(std::fabs(got.ratio.factor - factor) <= 40 * kEpsilon * factor, what + " factor");
  });
}

FrozenSums sums_of(double momentum, double update, float largest) {
  return {momentum, update, largest};
}

void test_factor() {
  const OptimizerHyper hyper = hyper_of(0, true);
  // From 1 the factor may go a tenth up or down in a step, and no further than the bounds.
  TrustRatio ratio{2, 0};
  CHECK(std::fabs(frozen_coefficient(hyper, sums_of(1, 1, 100), ratio) - 2.2) < 1e-6);
  CHECK(std::fabs(frozen_coefficient(hyper, sums_of(1, 1, 1.15f), ratio) - 2.3) < 1e-6);
  for (int i = 0; i < 40; ++i) frozen_coefficient(hyper, sums_of(1, 1, 100), ratio);
  CHECK(ratio.factor == 4);
  for (int i = 0; i < 60; ++i) frozen_coefficient(hyper, sums_of(1, 1, 0), ratio);
  CHECK(ratio.factor == 0.5f);
  // Only the momentum's share of the update follows the second moments.
  OptimizerHyper decaying = hyper_of(0.1, true);
  decaying.factor_threshold = 10;
  TrustRatio fresh;
  CHECK(std::fabs(frozen_coefficient(decaying, sums_of(1, 4, 3), fresh) - 2) < 1e-6);
  // Nothing has moved at all: no 0/0.
  TrustRatio still;
  CHECK(frozen_coefficient(decaying, sums_of(0, 0, 0), still) == 0.5);
}

void test_average() {
  const OptimizerHyper hyper = hyper_of(0, true);
  TrustRatio ratio;
  average_trust_ratio(hyper, {0, 1}, 1, ratio);
  average_trust_ratio(hyper, {1, 0}, 1, ratio);
  CHECK(ratio.average == 0);
  average_trust_ratio(hyper, {1, 1}, 3, ratio);
  CHECK(ratio.average == 3);
  average_trust_ratio(hyper, {1, 1}, 1, ratio);
  CHECK(std::fabs(ratio.average - 2.8) < 1e-6);
}

// One bit makes ±scale of a momentum of 0, whose second moment is 0, too.
void test_untouched() {
  const OptimizerHyper hyper = hyper_of(0, true);
  for_each_isa([&](Isa isa, const std::string& name) {
    std::vector<float> p{1, 2, 3}, m{0.5f, -0.5f, 0.5f}, v{0, 0.1f, 0}, f = v, previous(3);
    std::vector<uint16_t> copy(4, 0xabcd), want(3);
    OptimizerArrays arrays{p.data(), m.data(), v.data(), f.data(), previous.data()};
    arrays.copy16 = copy.data();
    TrustRatio ratio;
    const FrozenSums sums = lamb_frozen_moments(hyper, 5, arrays, 0, 3, isa);
    lamb_frozen_apply(hyper, 5, frozen_coefficient(hyper, sums, ratio), arrays, 0, 3, isa);
    CHECK_MESSAGE(p[0] == 1 && p[1] > 2 && p[2] == 3, name);
    convert_floats(p.data(), DType::kFloat32, want.data(), DType::kBFloat16, 3);
    CHECK_MESSAGE(std::equal(want.begin(), want.end(), copy.begin()) && copy[3] == 0xabcd, name);
  });
}

}  // namespace

int main() {
  for (const double decay : {0.0, 0.1})
    for (const bool correction : {true, false})
      for (const size_t count : {size_t{1}, size_t{7}, size_t{1003}, kNormBlock + 5})
        test_against_double(hyper_of(decay, correction), count);
  test_factor();
  test_average();
  test_untouched();
  return summary();
}
