// Every instruction set against the formulas in double, over random problems.
//
// How far rounding may go, with u = 2⁻²⁴ and norms N over all rows of Q, K, V and dY:
// a score errs by at most E = (D + 8)·u·(scale·N(q)·N(k) + |bias|) (a sum of D products and what is
// added to it), a probability by a factor of 2E + (Sk + 16)·u, and sums of n terms by n·u of their
// absolute values.
#include "attention/attention.h"

#include "attention/attention_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr double kUnit = kEpsilon / 2;

double largest_norm(const std::vector<float>& x, size_t D) {
  double largest = 0;
  for (size_t i = 0; i + D <= x.size(); i += D) {
    double total = 0;
    for (size_t d = 0; d < D; ++d) total += double{x[i + d]} * x[i + d];
    largest = std::max(largest, total);
  }
  return std::sqrt(largest);
}
double largest_value(const std::vector<float>& x) {
  double largest = 0;
  // The lowest number swallows what it is added to, which is no error: double does the same.
  for (float v : x)
    if (std::fabs(v) < 1e30f) largest = std::max(largest, std::fabs(double{v}));
  return largest;
}

double score_error(const Problem& p) {
  const double product = largest_norm(p.q, p.o.D) * largest_norm(p.k, p.o.D);
  const double scale = 1 / std::sqrt(static_cast<double>(p.o.D));
  return (p.o.D + 8) * kUnit * (scale * product + largest_value(p.bias));
}
double probability_error(const Problem& p) { return 2 * score_error(p) + (p.o.Sk + 16) * kUnit; }

// What Y would be if V were its absolute values: Σ p·|v|.
Values forward_magnitude(const Problem& p) {
  std::vector<float> v = p.v;
  for (float& x : v) x = std::fabs(x);
  Attention a = p.attention();
  a.v = Problem::in(v, p.vp);
  return run_forward(p, [&](const AttentionResult& result) { attention_reference(a, result); });
}

// Bounds of the gradients' errors; of dV for each element, of the others for all.
struct GradientErrors {
  std::vector<float> dv;
  double dq, dk;
};
GradientErrors gradient_errors(const Problem& p, const Values& exact) {
  const double dropped = p.o.dropout ? 1 / 0.75 : 1;
  const double product = dropped * largest_norm(p.dy, p.o.D) * largest_norm(p.v, p.o.D);
  const double lse = largest_value(exact.lse) * kUnit;
  const double probability = probability_error(p) + 2 * lse;
  const double ds = product * (4 * probability + 2 * (p.o.D + p.o.Sk + p.o.Sq + 32) * kUnit);
  const double scale = 1 / std::sqrt(static_cast<double>(p.o.D));
  // dV for |dY|: Σ p·|dy|.
  std::vector<float> dy = p.dy;
  for (float& x : dy) x = std::fabs(x);
  const Attention a = p.attention();
  GradientErrors errors{};
  errors.dv = run_backward(p, exact, [&](AttentionGradient g) {
                g.dy = Problem::in(dy, p.yp);
                attention_grad_reference(a, g);
              }).dv;
  for (float& e : errors.dv)
    e = static_cast<float>(e * (probability + (p.o.Sq * (p.o.H / p.o.Hkv) + 16) * kUnit) + 1e-30);
  // The probabilities of a row add up to 1; those of a key to at most one for each query.
  const double queries = static_cast<double>(p.o.Sq * (p.o.H / p.o.Hkv));
  errors.dq = scale * largest_value(p.k) * (p.o.rotated ? 2 : 1) * ds + 1e-30;
  errors.dk = scale * largest_value(p.q) * (p.o.rotated ? 2 : 1) * ds * queries + 1e-30;
  return errors;
}

void compare(const Options& options) {
  const Problem p(options);
  const Values exact = exact_forward(p);
  const Gradients exact_gradients = exact_backward(p, exact);
  const Values magnitude = forward_magnitude(p);
  const GradientErrors errors = gradient_errors(p, exact);
  const double probability = probability_error(p);
  Serial serial;
  for_each_isa([&](Isa isa, const std::string& name) {
    const std::string what = name + text_of(options);
    const Values got = forward_of(p, isa, serial);
    close(what + "Y", got.y, exact.y,
          [&](size_t i) { return probability * magnitude.y[i] + 1e-30; });
    close(what + "lse", got.lse, exact.lse,
          [&](size_t i) { return probability + kUnit * std::fabs(double{exact.lse[i]}); });
    const Gradients gradients = backward_of(p, got, isa, serial);
    close(what + "dV", gradients.dv, exact_gradients.dv, [&](size_t i) { return errors.dv[i]; });
    close(what + "dQ", gradients.dq, exact_gradients.dq, [&](size_t) { return errors.dq; });
    close(what + "dK", gradients.dk, exact_gradients.dk, [&](size_t) { return errors.dk; });
  });
}

void test_random_problems() {
  Random random(11);
  const size_t lengths[] = {1, 2, 7, 16, 31, 63, 64, 65, 97, 127, 128, 129, 200};
  const size_t sizes[] = {16, 24, 32, 40, 48, 64, 80, 96, 128, 17, 160, 256};
  const auto pick = [&](const auto& list) { return list[random.bits() % std::size(list)]; };
  for (int i = 0; i < 160; ++i) {
    Options o;
    o.seed = 1000 + i;
    o.B = 1 + random.bits() % 2;
    o.Hkv = 1 + random.bits() % 2;
    o.H = o.Hkv * (1 + random.bits() % 3);
    o.Sq = pick(lengths);
    o.D = pick(sizes);
    o.storage = static_cast<Storage>(random.bits() % 3);
    const bool same_length = o.storage == Storage::kPacked || random.bits() % 2;
    o.Sk = same_length ? o.Sq : pick(lengths);
    o.rotated = o.Sq == o.Sk && o.D % 2 == 0 && random.bits() % 2;
    o.spread = random.bits() % 4 == 0 ? 6 : 1;
    o.causal = random.bits() % 2;
    o.mask = random.bits() % 3 == 0;
    o.dropout = random.bits() % 3 == 0;
    o.bias_axes = random.bits() % 2 ? static_cast<int>(random.bits() % 16) : -1;
    o.harsh = random.bits() % 3 == 0;
    if (random.bits() % 3 == 0) o.block = size_t{16} << random.bits() % 4;
    o.layout_per_head = random.bits() % 2;
    compare(o);
  }
}

// More blocks of keys than copies are kept of, for the heads of a group one after the other.
void test_many_blocks() {
  for (const size_t block : {16, 64, 96}) {
    Options o;
    o.H = 2, o.Sq = o.Sk = 70 + 8 * block, o.D = 128;
    o.block = block;
    o.causal = o.rotated = o.layout_per_head = true;
    o.mask = true;
    o.dropout = block == 96;
    o.seed = 5000 + block;
    compare(o);
  }
}

// A tile has one block of 96 and what is left of keys when that is at most 32; of heads as large as
// these no more copies are kept than a tile has blocks.
void test_short_last_blocks() {
  for (const size_t block : {64, 96, 128})
    for (const size_t rest : {1, 20, 32}) {
      Options o;
      o.Sq = o.Sk = 3 * block + rest, o.D = 256;
      o.block = block;
      o.causal = rest == 20;
      o.seed = 6000 + block + rest;
      compare(o);
    }
}

}  // namespace

int main(int argc, char** argv) {
  return run_tests(argc, argv,
                   {
                       {"random_problems", test_random_problems},
                       {"short_last_blocks", test_short_last_blocks},
                       {"many_blocks", test_many_blocks},
                   });
}
