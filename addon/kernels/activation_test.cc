// Every instruction set against the formulas in double.
#include "kernels/activation.h"

#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

// Dense where the functions bend, wide where they saturate, and the special values.
std::vector<float> arguments() {
  std::vector<float> x;
  for (float v = -16; v <= 16; v += 0x1p-10f) x.push_back(v + 1e-4f * v);
  for (float v = 1e-30f; v < 1e30f; v *= 3.7f) {
    x.push_back(v);
    x.push_back(-v);
  }
  x.push_back(0.0f);
  x.push_back(-0.0f);
  x.push_back(NAN);
  x.push_back(HUGE_VALF);
  return x;
}

void test_values_and_slopes() {
  const std::vector<float> x = arguments();
  const size_t n = x.size();
  const std::vector<float> ones(n, 1.0f);
  const ActivationKernels& reference = activation_reference();
  for_each_isa([&](Isa isa, const std::string& name) {
    const ActivationKernels& fast = activation_kernels(isa);
    std::vector<float> want(n), got(n);
    // Values: four roundings' relative error; and where the result nears the smallest normal
    // number, the factor that x multiplies has lost digits.
    const auto relative = [&](size_t i) {
      return 4 * kEpsilon * std::fabs(want[i]) + 0x1p-126 * (1 + std::fabs(x[i]));
    };
    // The exponent of the tanh form is a polynomial of x: its own roundings are relative to it, and
    // become a relative error of the result that is |exponent| times as large.
    const auto relative_to_exponent = [&](size_t i) {
      const double v = x[i];
      const double exponent = v < 0 ? std::fmin(1.6 * (-v - 0.044715 * v * v * v), 104) : 0;
      return (1 + exponent) * relative(i);
    };
    // A slope is a sum of two terms of up to 1.2 that may cancel.
    const auto absolute = [](size_t) { return 4 * kEpsilon * 1.2; };

    reference.gelu(x.data(), want.data(), GeluForm::kErf, 0, n);
    fast.gelu(x.data(), got.data(), GeluForm::kErf, 0, n);
    close(name + "gelu erf", got, want, relative);

    reference.gelu(x.data(), want.data(), GeluForm::kTanh, 0, n);
    fast.gelu(x.data(), got.data(), GeluForm::kTanh, 0, n);
    close(name + "gelu tanh", got, want, relative_to_exponent);

    reference.silu(x.data(), want.data(), 0, n);
    fast.silu(x.data(), got.data(), 0, n);
    close(name + "silu", got, want, relative);

    for (GeluForm form : {GeluForm::kErf, GeluForm::kTanh}) {
      reference.gelu_grad(ones.data(), x.data(), want.data(), form, 0, n);
      fast.gelu_grad(ones.data(), x.data(), got.data(), form, 0, n);
      want[n - 1] = 1;  // at infinity the formula is ∞·0
      close(name + "gelu slope", got, want, absolute);
    }
    reference.silu_grad(ones.data(), x.data(), want.data(), 0, n);
    fast.silu_grad(ones.data(), x.data(), got.data(), 0, n);
    want[n - 1] = 1;
    close(name + "silu slope", got, want, absolute);
  });
}

void test_gated() {
  Random random(7);
  const size_t n = 1003;
  const std::vector<float> gate = random.vector(n, -9, 9), up = random.vector(n, -2, 2),
                           dy = random.vector(n);
  for_each_isa([&](Isa isa, const std::string& name) {
    const ActivationKernels &fast = activation_kernels(isa), &reference = activation_reference();
    std::vector<float> y(n), want_y(n), dgate(n), want_dgate(n), dup(n), want_dup(n);
    fast.silu_mul(gate.data(), up.data(), y.data(), 0, n);
    reference.silu_mul(gate.data(), up.data(), want_y.data(), 0, n);
    fast.silu_mul_grad(dy.data(), gate.data(), up.data(), dgate.data(), dup.data(), 0, n);
    reference.silu_mul_grad(dy.data(), gate.data(), up.data(), want_dgate.data(), want_dup.data(),
                            0, n);
    const auto relative = [](const std::vector<float>& of) {
      return [&of](size_t i) { return 6 * kEpsilon * std::fabs(of[i]); };
    };
    close(name + "silu·up", y, want_y, relative(want_y));
    close(name + "silu·up, up", dup, want_dup, relative(want_dup));
    close(name + "silu·up, gate", dgate, want_dgate,
          [&](size_t i) { return 6 * kEpsilon * std::fabs(dy[i] * up[i]) * 1.2; });
  });
}

// An element depends neither on the range it came in nor on where the output is.
void test_ranges_and_in_place() {
  Random random(3);
  const size_t n = 101;
  const std::vector<float> x = random.vector(n, -4, 4);
  for_each_isa([&](Isa isa, const std::string& name) {
    const ActivationKernels& fast = activation_kernels(isa);
    std::vector<float> whole(n), pieces(n, 99.0f), in_place = x;
    fast.gelu(x.data(), whole.data(), GeluForm::kErf, 0, n);
    for (size_t i = 0; i < n; i += 7)
      fast.gelu(x.data(), pieces.data(), GeluForm::kErf, i, std::min(n, i + 7));
    fast.gelu(in_place.data(), in_place.data(), GeluForm::kErf, 0, n);
    CHECK_MESSAGE(whole == pieces, name);
    CHECK_MESSAGE(whole == in_place, name);
    std::vector<float> guarded(n, 5.0f);
    fast.gelu(x.data(), guarded.data(), GeluForm::kErf, 3, 20);
    CHECK_MESSAGE(guarded[2] == 5.0f && guarded[20] == 5.0f && guarded[19] != 5.0f, name);
  });
}

}  // namespace

int main() {
  test_values_and_slopes();
  test_gated();
  test_ranges_and_in_place();
  return summary();
}
