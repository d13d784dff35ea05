// Twenty steps of LAMB on every instruction set beside the same in double; norms of 0; the bounds.
#include "optim/lamb.h"

#include "core/half.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr int kSteps = 20;
constexpr double kScale = 1.0 / 3;

OptimizerHyper hyper_of(double lr, double weight_decay, bool correction, double least,
                        double most) {
  OptimizerHyper hyper{lr, 0.9, 0.99, 1e-6, weight_decay, correction};
  hyper.min_coeff = least;
  hyper.max_coeff = most;
  return hyper;
}

struct Variant {
  const char* name;
  OptimizerHyper hyper;
};
const Variant kVariants[] = {
    {"lamb", hyper_of(1e-2, 0.01, true, 0.01, 10)},
    {"lamb without correction or decay", hyper_of(1e-2, 0, false, 0.01, 10)},
    {"lamb at its lower bound", hyper_of(1e-3, 0.1, true, 5, 10)},
    {"lamb at its upper bound", hyper_of(1e-2, 0.1, true, 0.001, 0.02)},
};

std::vector<float> gradient_of(int step, size_t count) {
  std::vector<float> gradient = Random(100 + static_cast<uint64_t>(step)).vector(count);
  if (count > 0) gradient[0] = 0;
  return gradient;
}

struct State {
  std::vector<float> master, m, v;
};

// One tensor, stepped block by block as the engine does.
State run(const OptimizerHyper& hyper, size_t count, Isa isa) {
  State state{Random(11).vector(count), std::vector<float>(count), std::vector<float>(count)};
  for (int step = 1; step <= kSteps; ++step) {
    const std::vector<float> gradient = gradient_of(step, count);
    const OptimizerArrays arrays{state.master.data(), gradient.data(), state.m.data(),
                                 state.v.data()};
    const auto t = static_cast<uint64_t>(step);
    LambSquares squares;
    for (size_t begin = 0; begin < count; begin += kNormBlock) {
      const LambSquares part =
          lamb_moments(hyper, t, kScale, arrays, begin, std::min(count, begin + kNormBlock), isa);
      squares.weights += part.weights;
      squares.update += part.update;
    }
    lamb_apply(hyper, t, lamb_coefficient(hyper, squares), arrays, 0, count, isa);
  }
  return state;
}

void test_against_double(const Variant& variant, size_t count) {
  const std::vector<float> start = Random(11).vector(count);
  std::vector<double> master(start.begin(), start.end()), m(count), v(count);
  for (int step = 1; step <= kSteps; ++step)
    lamb_reference(variant.hyper, static_cast<uint64_t>(step), kScale, master.data(),
                   gradient_of(step, count).data(), m.data(), v.data(), count);
  const std::vector<float> want(master.begin(), master.end());
  const std::vector<float> want_m(m.begin(), m.end()), want_v(v.begin(), v.end());
  for_each_isa([&](Isa isa, const std::string& name) {
    const State got = run(variant.hyper, count, isa);
    const std::string what = name + variant.name + " " + std::to_string(count);
    // A step rounds the weight, at most 2 here, once; its move of at most lr·coefficient·10, with a
    // coefficient of at most max_coeff, some ten times. What moments and norms lost comes again in
    // every later step, as much as they lost themselves.
    const double move = variant.hyper.lr * variant.hyper.max_coeff * 10;
    close(what, got.master, want, [&](size_t) { return kSteps * kEpsilon * (2 + 10 * move); });
    for (const auto& [ours, theirs] : {std::pair{got.m, want_m}, std::pair{got.v, want_v}})
      close(what + " moments", ours, theirs,
            [&](size_t i) { return kSteps * kEpsilon * (1 + std::fabs(double{theirs[i]})); });
  });
}

// A tensor that is 0 and one that does not move: coefficient 1, and no 0/0.
void test_norms_of_zero() {
  const OptimizerHyper hyper = hyper_of(0.1, 0, true, 0.01, 10);
  CHECK(lamb_coefficient(hyper, {0, 4}) == 1);
  CHECK(lamb_coefficient(hyper, {4, 0}) == 1);
  CHECK(lamb_coefficient(hyper, {4, 1}) == 2);
  CHECK(lamb_coefficient(hyper, {4, 1e-8}) == 10);
  CHECK(lamb_coefficient(hyper, {1e-8, 4}) == 0.01);
  OptimizerHyper no_eps = hyper;
  no_eps.eps = 0;
  for_each_isa([&](Isa isa, const std::string& name) {
    // An odd count, so that the lanes behind it are 0/0 with eps 0.
    std::vector<float> p(3), g(3, 2.0f), m(3), v(3);
    const OptimizerArrays arrays{p.data(), g.data(), m.data(), v.data()};
    const LambSquares squares = lamb_moments(no_eps, 1, 1, arrays, 0, 3, isa);
    CHECK_MESSAGE(squares.weights == 0 && std::fabs(squares.update - 3) < 1e-5, name);
    lamb_apply(no_eps, 1, lamb_coefficient(no_eps, squares), arrays, 0, 3, isa);
    for (const float value : p) CHECK_MESSAGE(std::fabs(value + 0.1f) < 1e-6f, name);
  });
}

void test_copies() {
  const size_t count = 37;
  const std::vector<float> gradient = gradient_of(1, count);
  for_each_isa([&](Isa isa, const std::string& name) {
    for (const DType type : {DType::kBFloat16, DType::kFloat16}) {
      std::vector<float> p = Random(5).vector(count), m(count), v(count);
      std::vector<uint16_t> copy(count + 1, 0xabcd), want(count);
      OptimizerArrays arrays{p.data(), gradient.data(), m.data(), v.data()};
      arrays.copy16 = copy.data();
      arrays.copy_type = type;
      lamb_moments(kVariants[0].hyper, 1, 1, arrays, 0, count, isa);
      lamb_apply(kVariants[0].hyper, 1, 0.5, arrays, 0, count, isa);
      convert_floats(p.data(), DType::kFloat32, want.data(), type, count);
      CHECK_MESSAGE(std::equal(want.begin(), want.end(), copy.begin()) && copy[count] == 0xabcd,
                    name);
    }
  });
}

}  // namespace

int main() {
  for (const Variant& variant : kVariants)
    for (const size_t count : {size_t{1}, size_t{7}, size_t{1003}, kNormBlock + 5})
      test_against_double(variant, count);
  test_norms_of_zero();
  test_copies();
  return summary();
}
