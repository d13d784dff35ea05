// Products by a CBLAS library against the formula in double, with gemm_test.cc's tolerance. Built
// where there is such a library; else it says so.
#include "gemm/cblas.h"

#include <cstring>

#include "core/threads.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

#if !defined(DSJS_HAS_CBLAS)
int main() {
  std::printf(
      "skipped: no library with the CBLAS interface was found (apt-get install libopenblas-dev)\n");
}
#else
namespace {

constexpr double kUnit = 0x1p-24;
constexpr size_t kM = 70, kN = 97, kK = 131, kBatch = 2;

struct Data {
  std::vector<float> a, b, c, bias, residual, z;
  Product product = plain_product(kM, kN, kK);

  Data(bool trans_a, bool trans_b, size_t pad, Random& random) {
    product.a_strides = trans_a ? MatrixStrides{1, kM + pad} : MatrixStrides{kK + pad, 1};
    product.b_strides = trans_b ? MatrixStrides{1, kK + pad} : MatrixStrides{kN + pad, 1};
    product.ldc = kN + pad;
    const size_t of_a = std::max(kM, kK) * (std::max(kM, kK) + pad);
    const size_t of_b = std::max(kN, kK) * (std::max(kN, kK) + pad);
    a = random.vector(kBatch * of_a);
    b = random.vector(of_b);
    c = random.vector(kBatch * kM * product.ldc);
    residual = random.vector(c.size());
    z = random.vector(c.size(), -3, 3);
    bias = random.vector(kN);
    product.a = a.data();
    product.b = b.data();
    product.c = c.data();
    // B is the same in all of them.
    product.batch = {1, {kBatch}, {of_a}, {0}};
  }
};

// Two threads of our own for the end.
class Pool : public Parallel {
 public:
  size_t threads() const override { return 2; }

 private:
  void run_calls(size_t count, void (*fn)(void*, size_t), void* user) override {
    pool_.parallel_for(count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) fn(user, i);
    });
  }
  ThreadPool pool_{2};
};

void check(Data& data, const std::string& name) {
  Product& product = data.product;
  std::vector<double> value(kBatch * kM * kN), magnitude(value.size());
  gemm_reference(product, value.data(), magnitude.data());
  const std::vector<float> before = data.c;
  std::vector<float> want = before;  // padding stays as it is
  std::vector<double> tolerance(want.size(), 0);
  for (size_t row = 0; row < kBatch * kM; ++row)
    for (size_t n = 0; n < kN; ++n) {
      const size_t at = row * product.ldc + n, i = row * kN + n;
      want[at] = static_cast<float>(value[i]);
      tolerance[at] =
          kUnit * (1.13 * (kK + 20) * magnitude[i] +
                   16 * (std::fabs(value[i]) + magnitude[i] + std::fabs(data.residual[at])));
    }
  CHECK_MESSAGE(pays_in_cblas(product), name);
  CHECK_MESSAGE(gemm_scratch(product, 2, Isa::kCblas) == 0, name);
  Pool two;
  gemm(product, two, nullptr, Isa::kCblas);
  close(name, data.c, want, [&](size_t i) { return tolerance[i]; });
  std::vector<float> again = before;
  product.c = again.data();
  Serial alone;
  gemm(product, alone, nullptr, Isa::kCblas);
  CHECK_MESSAGE(again == data.c, name);
}

void test_products() {
  Random random(1);
  for (bool trans_a : {false, true})
    for (bool trans_b : {false, true})
      for (size_t pad : {0, 3})
        for (bool accumulate : {false, true})
          for (int end = 0; end < 7; ++end) {
            if (accumulate && end > 0) continue;
            Data data(trans_a, trans_b, pad, random);
            Product& product = data.product;
            product.alpha = pad ? -0.5f : 1;
            product.accumulate = accumulate;
            product.epilogue = static_cast<Epilogue>(end);
            if (end >= static_cast<int>(Epilogue::kGeluGrad)) product.z = data.z.data();
            if (end % 2) product.bias = data.bias.data();
            if (end > 1) product.residual = data.residual.data();
            check(data, std::to_string(trans_a) + std::to_string(trans_b) + " pad " +
                            std::to_string(pad) + " end " + std::to_string(end));
          }
}

// What the library cannot do, or where it is not worth a call, is computed as without it.
void test_left_out() {
  Random random(2);
  const auto left_out = [&](auto change) {
    Data data(false, true, 0, random);
    change(data.product);
    return !pays_in_cblas(data.product);
  };
  float sums[kN];
  CHECK(left_out([](Product& p) { p.prologue = Prologue::kSilu; }));
  CHECK(left_out([](Product& p) { p.prologue_b = Prologue::kSilu; }));
  CHECK(left_out([](Product& p) { p.b_dtype = DType::kBFloat16; }));
  CHECK(left_out([&](Product& p) { p.column_sums = sums; }));
  CHECK(left_out([](Product& p) { p.alpha = 0; }));
  CHECK(left_out([](Product& p) { p.M = 63; }));
  CHECK(left_out([](Product& p) { p.K = 63; }));
  CHECK(left_out([](Product& p) { p.a_strides = {3 * kK, 3}; }));
  CHECK(left_out([](Product& p) { p.a_strides = {0, 1}; }));
  CHECK(left_out([](Product& p) { p.b_strides.column = size_t{1} << 31; }));
  CHECK(left_out([](Product& p) { p.ldc = size_t{1} << 31; }));

  Data data(false, true, 0, random);
  data.product.M = 50;
  data.product.batch = {};
  const Isa next = own_isa(Isa::kCblas);
  CHECK(next == available_isas()[1] && own_isa(Isa::kPortable) == Isa::kPortable);
  std::vector<float> scratch(gemm_scratch(data.product, 1, Isa::kCblas) + 16);
  auto* const aligned =
      reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  Serial alone;
  gemm(data.product, alone, aligned, Isa::kCblas);
  const std::vector<float> got = data.c;
  gemm(data.product, alone, aligned, next);
  CHECK(got == data.c);
}

// The set is there, and ahead of all others.
void test_available() {
  CHECK(available_isas().front() == Isa::kCblas);
  CHECK(std::strcmp(isa_name(Isa::kCblas), "cblas") == 0);
}

}  // namespace

int main() {
  test_products();
  test_left_out();
  test_available();
  return summary();
}
#endif
