// Twenty steps of every optimizer and variant on every instruction set, beside the same in double.
#include "optim/optimizers.h"

#include "core/half.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

struct Variant {
  const char* name;
  OptimizerKind kind;
  OptimizerHyper hyper;
};

const Variant kVariants[] = {
    {"adamw", OptimizerKind::kAdamW, {1e-3, 0.9, 0.999, 1e-8, 0.1, true, false, 0}},
    {"adamw without correction",
     OptimizerKind::kAdamW,
     {1e-3, 0.9, 0.95, 1e-6, 0, false, false, 0}},
    {"adam", OptimizerKind::kAdam, {1e-2, 0.8, 0.99, 1e-8, 0.01, true, false, 0}},
    {"sgd", OptimizerKind::kSgd, {0.1, 0, 0, 0, 0.01, true, false, 0}},
    {"sgd momentum", OptimizerKind::kSgd, {0.1, 0.9, 0, 0, 0.01, true, false, 0}},
    {"sgd dampening", OptimizerKind::kSgd, {0.1, 0.9, 0, 0, 0, true, false, 0.5}},
    {"sgd nesterov", OptimizerKind::kSgd, {0.1, 0.9, 0, 0, 0.01, true, true, 0}},
    {"lion", OptimizerKind::kLion, {1e-3, 0.9, 0.99, 0, 0.1, true, false, 0}},
    {"adagrad", OptimizerKind::kAdagrad, {1e-2, 0, 0, 1e-10, 0.01, true, false, 0}},
    {"adam with given corrections",
     OptimizerKind::kAdam,
     {1e-2, 0.8, 0.99, 1e-8, 0.01, true, false, 0, 0.3, 0.02}},
    {"adamax", OptimizerKind::kAdamax, {2e-3, 0.9, 0.999, 1e-7, 0.01, true, false, 0}},
    {"adamax with a given correction",
     OptimizerKind::kAdamax,
     {2e-3, 0.9, 0.999, 1e-7, 0.01, false, false, 0, 0.1}},
    {"rmsprop", OptimizerKind::kRmsprop, {1e-3, 0, 0.9, 1e-7, 0.01, true, false, 0}},
    {"rmsprop momentum", OptimizerKind::kRmsprop, {1e-3, 0.9, 0.9, 1e-7, 0.01, true, false, 0}},
    {"rmsprop centred", OptimizerKind::kRmspropCentered, {1e-3, 0.5, 0.9, 1e-12, 0.1, true}},
    {"adagrad_root", OptimizerKind::kAdagradRoot, {1e-2, 0, 0, 1e-7, 0.01, true, false, 0}},
    {"average", OptimizerKind::kAverage, {0, 0.9, 0, 0, 0, true, false, 0}},
    {"adam frozen",
     OptimizerKind::kAdamFrozen,
     {1e-3, 0.9, 0.999, 1e-2, 0.1, true, false, 0, 0, 0.3}},
    {"adadelta", OptimizerKind::kAdadelta, {1, 0, 0.95, 1e-7, 0.01, true, false, 0}},
};

constexpr size_t kCount = 1003;  // ends inside a vector of any width
constexpr int kSteps = 20;
constexpr double kScale = 1.0 / 3;

struct State {
  std::vector<float> master, first, second, third;
  OptimizerArrays arrays(const std::vector<float>& gradient) {
    return {master.data(), gradient.data(), first.data(), second.data(), third.data()};
  }
};

State initial(const Variant& variant = kVariants[0]) {
  Random random(11);
  State state{random.vector(kCount), std::vector<float>(kCount), std::vector<float>(kCount),
              std::vector<float>(kCount)};
  // Second moments that others have gathered; some elements never had a gradient.
  if (variant.kind == OptimizerKind::kAdamFrozen) {
    state.first = random.vector(kCount, 0, 0.1f);
    for (size_t i = 0; i < kCount; i += 9) state.first[i] = 0;
  }
  return state;
}

std::vector<float> gradient_of(int step) {
  Random random(100 + step);
  std::vector<float> gradient = random.vector(kCount);
  gradient[0] = 0;
  return gradient;
}

State run(const Variant& variant, Isa isa, size_t piece) {
  State state = initial(variant);
  for (int step = 1; step <= kSteps; ++step) {
    const std::vector<float> gradient = gradient_of(step);
    for (size_t begin = 0; begin < kCount; begin += piece)
      optimizer_update(variant.kind, variant.hyper, step, kScale, state.arrays(gradient), begin,
                       std::min(kCount, begin + piece), isa);
  }
  return state;
}

void test_against_double(const Variant& variant) {
  const State start = initial(variant);
  std::vector<double> master(start.master.begin(), start.master.end()),
      first(start.first.begin(), start.first.end()), second(kCount), third(kCount);
  for (int step = 1; step <= kSteps; ++step)
    optimizer_reference(variant.kind, variant.hyper, step, kScale, master.data(),
                        gradient_of(step).data(), first.data(), second.data(), third.data(),
                        kCount);
  const std::vector<float> want(master.begin(), master.end());
  const std::vector<float> want_first(first.begin(), first.end());
  for_each_isa([&](Isa isa, const std::string& name) {
    const State got = run(variant, isa, kCount);
    // Each step rounds the weight (up to 3 in these runs) once for decay and once for the move, and
    // the move itself, at most lr·10, a few times. Errors of momentum feed later steps and add
    // again.
    const double step_error = kEpsilon * (3 + 8 * 10 * variant.hyper.lr);
    close(name + variant.name, got.master, want, [&](size_t) { return kSteps * step_error; });
    close(name + variant.name + " state", got.first, want_first,
          [&](size_t i) { return kSteps * kEpsilon * (1 + std::fabs(want_first[i])); });
    // In pieces, so that every element is once in a tail: bit for bit the same.
    const State pieces = run(variant, isa, 7);
    CHECK_MESSAGE(pieces.master == got.master && pieces.first == got.first &&
                      pieces.second == got.second && pieces.third == got.third,
                  name + variant.name);
  });
}

void test_copies() {
  const std::vector<float> gradient = gradient_of(1);
  for_each_isa([&](Isa isa, const std::string& name) {
    for (DType type : {DType::kBFloat16, DType::kFloat16}) {
      State state = initial();
      std::vector<uint16_t> copy(kCount + 1, 0xabcd), want(kCount);
      OptimizerArrays arrays = state.arrays(gradient);
      arrays.copy16 = copy.data();
      arrays.copy_type = type;
      optimizer_update(OptimizerKind::kAdamW, kVariants[0].hyper, 1, 1, arrays, 0, kCount, isa);
      convert_floats(state.master.data(), DType::kFloat32, want.data(), type, kCount);
      CHECK_MESSAGE(std::equal(want.begin(), want.end(), copy.begin()) && copy[kCount] == 0xabcd,
                    name);
    }
  });
}

void test_norm() {
  Random random(21);
  std::vector<float> x = random.vector(3 * kNormBlock + 77, -1e3f, 1e3f);
  x[5] = 1e30f;  // its square overflows fp32
  double want = 0;
  for (float v : x) want += double{v} * v;
  for_each_isa([&](Isa isa, const std::string& name) {
    const SquaredNorm norm = squared_norm(x.data(), DType::kFloat32, x.size(), isa);
    CHECK_MESSAGE(std::fabs(norm.sum - want) <= 1e-12 * want && norm.non_finite == 0, name);
    std::vector<float> bad = x;
    bad[5] = 0;
    bad[17] = NAN;
    bad[kNormBlock] = INFINITY;
    bad[x.size() - 1] = -INFINITY;
    double finite = 0;
    for (float v : bad)
      if (std::isfinite(v)) finite += double{v} * v;
    const SquaredNorm broken = squared_norm(bad.data(), DType::kFloat32, bad.size(), isa);
    CHECK_MESSAGE(broken.non_finite == 3 && std::fabs(broken.sum - finite) <= 1e-12 * finite, name);
    std::vector<double> wide(bad.size());
    for (DType type : {DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      convert_floats(bad.data(), DType::kFloat32, wide.data(), type, bad.size());
      std::vector<double> exact(bad.size());
      convert_floats(wide.data(), type, exact.data(), DType::kFloat64, bad.size());
      double sum = 0;
      for (double v : exact)
        if (std::isfinite(v)) sum += v * v;
      const SquaredNorm other = squared_norm(wide.data(), type, bad.size(), isa);
      CHECK_MESSAGE(other.non_finite == 3 && std::fabs(other.sum - sum) <= 1e-12 * sum, name);
    }
  });
  CHECK(squared_norm(x.data(), DType::kFloat32, 0).sum == 0);
}

void test_clipping() {
  CHECK(clip_factor(100, 1, 0) == 1);
  CHECK(clip_factor(0.25, 1, 1) == 1);
  CHECK(std::fabs(clip_factor(100, 0.5, 1) - 1 / (5 + 1e-6)) < 1e-15);
}

void test_refusals() {
  State state = initial();
  const std::vector<float> gradient = gradient_of(1);
  OptimizerArrays arrays = state.arrays(gradient);
  const OptimizerHyper& hyper = kVariants[0].hyper;
  CHECK_THROWS_CODE(optimizer_update(OptimizerKind::kAdamW, hyper, 0, 1, arrays, 0, 1),
                    "INVALID_ARGUMENT");
  arrays.state2 = nullptr;
  CHECK_THROWS_CODE(optimizer_update(OptimizerKind::kAdamW, hyper, 1, 1, arrays, 0, 1),
                    "INVALID_ARGUMENT");
  arrays.copy16 = reinterpret_cast<uint16_t*>(state.second.data());
  arrays.copy_type = DType::kFloat64;
  CHECK_THROWS_CODE(optimizer_update(OptimizerKind::kLion, hyper, 1, 1, arrays, 0, 1),
                    "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(optimizer_from_name("ftrl"), "INVALID_ARGUMENT");
  CHECK(optimizer_from_name("lion") == OptimizerKind::kLion);
}

}  // namespace

int main() {
  for (const Variant& variant : kVariants) test_against_double(variant);
  test_copies();
  test_norm();
  test_clipping();
  test_refusals();
  return summary();
}
