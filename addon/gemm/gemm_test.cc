// Products of every instruction set against the formula in double.
//
// Tolerance: a sum of K products in fp32, in any order, errs by at most γ_K·Σ|p(a)·q(b)|, γ_K =
// K·u/(1 − K·u), u = 2⁻²⁴ (Higham 2002, eq. 3.5). To K come the roundings of alpha, bias and the
// addition to C, and those of p(a) and q(b), 8 u each (kernels/activation_test.cc). What e then
// does to an error: no derivative of the activations is above 1.13 in magnitude; their own rounding
// is 8 u of their value. AMX leaves out u of each product, and rounds a term 18 + 6·K/32 times on
// its way into the sum (gemm/amx_pack.h): less than K where it is used.
#include "gemm/gemm.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <tuple>

#include "core/half.h"
#include "core/threads.h"
#include "gemm/gemm_kernels.h"
#include "gemm/plan.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

constexpr double kUnit = 0x1p-24;

// The engine's own pool as the loop of a product.
class Pool : public Parallel {
 public:
  explicit Pool(size_t threads) : pool_(static_cast<int>(threads)) {}
  size_t threads() const override { return static_cast<size_t>(pool_.size()); }

 private:
  void run_calls(size_t count, void (*fn)(void*, size_t), void* user) override {
    pool_.parallel_for(count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) fn(user, i);
    });
  }
  ThreadPool pool_;
};

std::vector<float> run(Product product, std::vector<float> c, size_t threads, Isa isa) {
  Pool pool(threads);
  const GemmKernels& kernels = own_gemm_kernels(product, isa);
  // Guards on both sides: what a kernel writes outside shows.
  constexpr float kGuard = 12345;
  constexpr size_t kMargin = 64;
  const size_t size = gemm_scratch(product, threads, kernels);
  std::vector<float> scratch(size + 2 * kMargin + 16, kGuard);
  auto* begin = reinterpret_cast<float*>(
      (reinterpret_cast<uintptr_t>(scratch.data() + kMargin) + 63) / 64 * 64);
  const std::vector<float> before = c;
  c.resize(before.size() + kMargin, kGuard);
  product.c = c.data();
  gemm(product, pool, begin, kernels);
  for (size_t i = 0; i < kMargin; ++i) {
    CHECK(scratch[i] == kGuard && begin[size + i] == kGuard);
    CHECK(c[before.size() + i] == kGuard);
  }
  c.resize(before.size());
  return c;
}

struct Case {
  size_t M = 1, N = 1, K = 1;
  bool trans_a = false, trans_b = false;
  size_t pad = 0;      // extra elements between rows of A, B and C
  size_t scatter = 1;  // distance between adjacent elements of A and B
  float alpha = 1;
  bool accumulate = false;
  Prologue prologue = Prologue::kNone, prologue_b = Prologue::kNone;
  Epilogue epilogue = Epilogue::kNone;
  bool bias = false, residual = false;
  DType b_dtype = DType::kFloat32;
  bool sums = false, accumulate_sums = false;

  std::string text() const {
    return std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K) +
           (trans_a ? " At" : "") + (trans_b ? " Bt" : "") + " pad " + std::to_string(pad) +
           " scatter " + std::to_string(scatter) + " alpha " + std::to_string(alpha) +
           (accumulate ? " accumulate" : "") + " prologue " +
           std::to_string(static_cast<int>(prologue)) + " and " +
           std::to_string(static_cast<int>(prologue_b)) + " epilogue " +
           std::to_string(static_cast<int>(epilogue)) + (bias ? " bias" : "") +
           (residual ? " residual" : "") + " B " + dtype_name(b_dtype) + (sums ? " sums" : "");
  }
};

// The operands of a case, and the product over them.
struct Data {
  std::vector<float> a, a2, b, b2, c, bias, residual, z, sums;
  std::vector<uint16_t> b16;
  Product product;

  explicit Data(const Case& x, Random& random) : product(plain_product(x.M, x.N, x.K)) {
    const auto strides = [&](size_t rows, size_t columns, bool transposed) {
      const size_t step = x.scatter;
      return transposed ? MatrixStrides{step, rows * step + x.pad}
                        : MatrixStrides{columns * step + x.pad, step};
    };
    product.a_strides = strides(x.M, x.K, x.trans_a);
    product.b_strides = strides(x.K, x.N, x.trans_b);
    const auto extent = [](size_t rows, size_t columns, MatrixStrides s) {
      return rows == 0 || columns == 0 ? 0 : (rows - 1) * s.row + (columns - 1) * s.column + 1;
    };
    a = random.vector(extent(x.M, x.K, product.a_strides), -2, 2);
    a2 = random.vector(a.size());
    b = random.vector(extent(x.K, x.N, product.b_strides));
    b2 = random.vector(b.size());
    b16.resize(b.size());
    convert_floats(b.data(), DType::kFloat32, b16.data(),
                   x.b_dtype == DType::kFloat32 ? DType::kFloat16 : x.b_dtype, b.size());
    product.ldc = x.N + x.pad;
    c = random.vector(x.M * product.ldc);
    residual = random.vector(c.size());
    z = random.vector(c.size(), -3, 3);
    bias = random.vector(x.N);
    sums = random.vector(x.N);
    product.a = a.data();
    product.a2 = a2.data();
    product.b = x.b_dtype == DType::kFloat32 ? static_cast<const void*>(b.data()) : b16.data();
    product.b_dtype = x.b_dtype;
    product.c = c.data();
    product.alpha = x.alpha;
    product.accumulate = x.accumulate;
    product.prologue = x.prologue;
    product.prologue_b = x.prologue_b;
    product.b2 = b2.data();
    product.epilogue = x.epilogue;
    product.bias = x.bias ? bias.data() : nullptr;
    product.residual = x.residual ? residual.data() : nullptr;
    product.z = x.epilogue >= Epilogue::kGeluGrad ? z.data() : nullptr;
    product.column_sums = x.sums ? sums.data() : nullptr;
    product.accumulate_sums = x.accumulate_sums;
  }
};

// The sums of op(q(B))'s columns: a product with a row of ones.
void check_sums(const Case& x, Data& data, size_t threads, Isa isa, const std::string& name) {
  const std::vector<float> before = data.sums, ones(x.K, 1);
  run(data.product, data.c, threads, isa);
  Product row = plain_product(1, x.N, x.K);
  row.a = ones.data();
  row.a_strides = {x.K, 1};
  row.b = data.product.b;
  row.b_dtype = data.product.b_dtype;
  row.b_strides = data.product.b_strides;
  row.prologue_b = data.product.prologue_b;
  row.b2 = data.product.b2;
  std::vector<float> old = before;
  row.c = old.data();
  row.accumulate = x.accumulate_sums;
  std::vector<double> value(x.N), magnitude(x.N);
  gemm_reference(row, value.data(), magnitude.data());
  const std::vector<float> want(value.begin(), value.end());
  close(name + "column sums", data.sums, want,
        [&](size_t n) { return static_cast<double>(x.K + 10) * kUnit * magnitude[n] + 1e-40; });
  data.sums = before;
}

void check_case(const Case& x, uint64_t seed, size_t threads = 2) {
  Random random(seed);
  Data data(x, random);
  std::vector<double> value(x.M * x.N), magnitude(x.M * x.N);
  gemm_reference(data.product, value.data(), magnitude.data());
  std::vector<float> want = data.c;
  std::vector<double> tolerance(want.size(), 0);  // padding stays as it is
  for (size_t m = 0; m < x.M; ++m)
    for (size_t n = 0; n < x.N; ++n) {
      const size_t at = m * data.product.ldc + n, i = m * x.N + n;
      want[at] = static_cast<float>(value[i]);
      const double residual = x.residual ? std::fabs(data.residual[at]) : 0;
      tolerance[at] = kUnit * (1.13 * static_cast<double>(x.K + 20) * magnitude[i] +
                               16 * (std::fabs(value[i]) + magnitude[i]) + 16 * residual) +
                      1e-40;
    }
  for_each_isa([&](Isa isa, const std::string& isa_text) {
    const std::string name = isa_text + x.text() + " ";
    if (x.sums && x.N > 0) check_sums(x, data, threads, isa, name);
    const std::vector<float> got = run(data.product, data.c, threads, isa);
    if (!want.empty()) close(name, got, want, [&](size_t i) { return tolerance[i]; });
    // The same bits again, and at other numbers of threads.
    for (size_t others : {size_t{1}, size_t{3}, threads})
      CHECK_MESSAGE(got.empty() || std::memcmp(run(data.product, data.c, others, isa).data(),
                                               got.data(), got.size() * sizeof(float)) == 0,
                    name + "threads " + std::to_string(others));
  });
}

// Sizes at and around what a kernel treats differently.
const size_t kSizes[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  13, 14,
                         15, 16, 17, 28, 29, 31, 32, 33, 48, 61, 97};

// Beside these, sums long enough for every way of computing them.
const size_t kDepths[] = {0,  1,  2,  3,  5,  7,  8,  13, 15, 16,  17,
                          28, 31, 32, 33, 48, 61, 64, 65, 97, 128, 131};

template <class T, size_t count>
T pick(Random& random, const T (&values)[count]) {
  return values[random.bits() % count];
}

void test_shapes() {
  Random random(1);
  for (size_t M : kSizes)
    for (size_t N : kSizes) {
      Case x;
      x.M = M;
      x.N = N;
      x.K = pick(random, kDepths);
      x.trans_a = random.bits() & 1;
      x.trans_b = random.bits() & 1;
      x.pad = random.bits() % 3;
      check_case(x, random.bits());
    }
}

void test_everything_at_once() {
  Random random(2);
  const float alphas[] = {1, 0.125f, -2.5f, 0};
  const DType dtypes[] = {DType::kFloat32, DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  for (int i = 0; i < 600; ++i) {
    Case x;
    x.M = pick(random, kSizes);
    x.N = pick(random, kSizes);
    x.K = pick(random, kDepths);
    x.trans_a = random.bits() & 1;
    x.trans_b = random.bits() & 1;
    x.pad = random.bits() % 5;
    x.scatter = random.bits() % 8 == 0 ? 3 : 1;
    x.alpha = pick(random, alphas);
    x.accumulate = random.bits() % 3 == 0;
    x.prologue = static_cast<Prologue>(random.bits() % 5);
    x.epilogue = x.accumulate ? Epilogue::kNone : static_cast<Epilogue>(random.bits() % 7);
    x.bias = !x.accumulate && random.bits() & 1;
    x.residual = !x.accumulate && random.bits() & 1;
    x.b_dtype = pick(random, dtypes);
    if (x.b_dtype == DType::kFloat32) x.prologue_b = static_cast<Prologue>(random.bits() % 5);
    x.sums = random.bits() % 3 == 0;
    x.accumulate_sums = random.bits() & 1;
    check_case(x, random.bits(), 1 + random.bits() % 4);
  }
}

// Larger than every block: several parts of the sum, of the rows and of the columns.
void test_blocks() {
  for (int i = 0; i < 4; ++i) {
    Case x;
    x.M = 401;
    x.N = i == 3 ? 3301 : 137;
    x.K = i == 3 ? 41 : 1031;
    x.trans_a = i & 1;
    x.trans_b = i & 2;
    x.bias = x.residual = x.sums = true;
    x.prologue = Prologue::kSilu;
    x.prologue_b = i == 2 ? Prologue::kSiluMul : Prologue::kNone;
    x.epilogue = Epilogue::kGeluTanh;
    check_case(x, 100 + i);
    x.bias = x.residual = false;
    x.epilogue = Epilogue::kNone;
    x.accumulate = x.accumulate_sums = true;
    check_case(x, 200 + i, 4);
  }
}

// Few rows or few columns beside many of the others: shared among threads, in several pieces.
void test_skinny() {
  struct Shape {
    size_t M, N, K;
  };
  const Shape shapes[] = {{2003, 8, 131},  {2003, 1, 601},  {701, 4, 640},   {8, 2003, 131},
                          {701, 16, 131},  {16, 1031, 131}, {13, 1031, 131}, {41, 517, 421},
                          {1, 5003, 257},  {5, 1031, 401},  {128, 8, 768},   {128, 768, 8},
                          {29, 2503, 131}, {1061, 41, 131}};
  uint64_t seed = 300;
  for (const Shape& shape : shapes)
    for (int layout = 0; layout < 4; ++layout) {
      Case x;
      x.M = shape.M;
      x.N = shape.N;
      x.K = shape.K;
      x.trans_a = layout & 1;
      x.trans_b = layout & 2;
      x.pad = layout;
      x.alpha = 0.5f;
      x.bias = x.residual = true;
      x.epilogue = Epilogue::kSilu;
      check_case(x, ++seed);
      x.bias = x.residual = false;
      x.epilogue = Epilogue::kNone;
      x.accumulate = true;
      x.prologue = layout == 3 ? Prologue::kSiluMul : Prologue::kNone;
      check_case(x, ++seed, 4);
    }
}

// How a product is computed depends on sizes and strides, not on threads.
void test_ways() {
  const auto product_of = [](size_t M, size_t N, size_t K, bool trans_a, bool trans_b) {
    Product product = plain_product(M, N, K);
    product.a_strides = trans_a ? MatrixStrides{1, M} : MatrixStrides{K, 1};
    product.b_strides = trans_b ? MatrixStrides{1, K} : MatrixStrides{N, 1};
    return product;
  };
  for_each_isa([&](Isa isa, const std::string& name) {
    if (isa == Isa::kAmx) return;  // packs whatever it reads
    const GemmKernels& kernels = own_gemm_kernels(plain_product(1, 1, 1), isa);
    const auto check_way = [&](const Product& product, Way way) {
      for (size_t threads : {1, 2, 7})
        CHECK_MESSAGE(plan_product(product, threads, kernels).way == way, name);
    };
    for (bool trans_a : {false, true})
      for (bool trans_b : {false, true}) {
        const size_t rows = 4 * std::max(kernels.few_rows, kernels.few_columns);
        for (size_t M : {kernels.few_rows, 2 * kernels.few_rows, trans_b ? size_t{1} : rows})
          check_way(product_of(M, 3000, 500, trans_a, trans_b), Way::kInPlace);
        if (!trans_b) check_way(product_of(rows + 1, 3000, 500, trans_a, trans_b), Way::kBlocks);
        const size_t dots = 8 * kernels.few_rows;
        if (trans_b) check_way(product_of(dots, 3000, 640, trans_a, trans_b), Way::kInPlace);
        check_way(product_of(std::max(dots, rows) + 1, 3000, 660, trans_a, trans_b), Way::kBlocks);
        // Where p(A) is copied by one thread.
        Product activated = product_of(kernels.few_rows + 1, 3000, 700, trans_a, trans_b);
        activated.prologue = Prologue::kSilu;
        check_way(activated, Way::kBlocks);
        const size_t columns = trans_a ? 8 * kernels.few_rows : kernels.few_columns / 2;
        check_way(product_of(3000, columns, 500, trans_a, trans_b), Way::kFewColumns);
        check_way(product_of(3000, columns + 1, 500, trans_a, trans_b), Way::kBlocks);
        check_way(product_of(70, kernels.few_columns + 1, 60, trans_a, trans_b),
                  trans_b ? Way::kBlocks : Way::kInPlace);
        check_way(product_of(40, 50, 60, trans_a, trans_b), trans_b ? Way::kBlocks : Way::kInPlace);
        check_way(product_of(400, 500, 600, trans_a, trans_b), Way::kBlocks);
        const size_t least = 5 * kernels.few_columns;  // terms of a dot product, of eight rows
        for (size_t terms : {least, least - 1})
          check_way(product_of(8, 3000, terms, trans_a, trans_b),
                    !trans_b || terms == least ? Way::kInPlace : Way::kBlocks);
      }
    Product product = product_of(1, 3000, 500, false, false);
    float sums[3000];
    product.column_sums = sums;
    check_way(product, Way::kBlocks);
  });
}

void test_batches() {
  struct Shape {
    size_t M, N, K;
  };
  const Shape shapes[] = {{3, 17, 40}, {33, 29, 65}, {70, 96, 64}, {1, 50, 33}};
  for (const Shape& s : shapes)
    for (size_t outer : {size_t{1}, size_t{2}, size_t{5}}) {
      Random random(outer + s.M);
      const size_t inner = 3;
      // A has no outer axis, B no inner one: both are broadcast.
      const std::vector<float> a = random.vector(inner * s.M * s.K);
      const std::vector<float> b = random.vector(outer * s.K * s.N);
      std::vector<float> c(outer * inner * s.M * s.N);
      Product product = plain_product(s.M, s.N, s.K);
      product.a = a.data();
      product.a_strides = {s.K, 1};
      product.b = b.data();
      product.b_strides = {1, s.K};
      product.c = c.data();
      product.batch = {2, {outer, inner}, {0, s.M * s.K}, {s.K * s.N, 0}};
      const std::vector<float> residual = random.vector(c.size());
      product.residual = residual.data();
      std::vector<double> value(c.size()), magnitude(c.size());
      gemm_reference(product, value.data(), magnitude.data());
      const std::vector<float> want(value.begin(), value.end());
      for_each_isa([&](Isa isa, const std::string& name) {
        const std::vector<float> got = run(product, c, 2, isa);
        close(name + "batch", got, want, [&](size_t i) {
          return kUnit * (static_cast<double>(s.K + 2) * magnitude[i] + 2 * std::fabs(residual[i]));
        });
        CHECK_MESSAGE(got == run(product, c, 1, isa), name);
      });
    }
}

// Which kernels a product gets: those of the set, or lesser ones where these are faster.
// Threads end a stage nearly together: a task is a small part of what one of them does in it.
void test_shares() {
  for_each_isa([&](Isa isa, const std::string& name) {
    for (const auto& [M, N, K] :
         {std::tuple{1024, 1536, 384}, {384, 1536, 1024}, {1024, 384, 1536}, {600, 1000, 1000}})
      for (size_t threads : {1, 2, 3}) {
        const Product product = plain_product(M, N, K);
        const Plan plan = plan_product(product, threads, own_gemm_kernels(product, isa));
        const size_t tasks = plan.row_blocks * plan.column_groups;
        CHECK_MESSAGE(threads == 1 ? plan.column_groups == 1 : tasks >= 12 * threads, name);
      }
  });
}

void test_choice() {
  for (const auto& [M, N, K, pays] : {std::tuple{64, 40, 32, true},
                                      {63, 40, 32, false},
                                      {64, 39, 32, false},
                                      {64, 40, 31, false},
                                      {2048, 768, 8, false},
                                      {1, 768, 768, false}}) {
    const Product product = plain_product(M, N, K);
    for_each_isa([&](Isa isa, const std::string& name) {
      const GemmKernels& chosen = gemm_kernels(product, isa);
      const Isa expected = isa == Isa::kAmx && !pays ? Isa::kAvx512 : isa;
      CHECK_MESSAGE(&chosen == &own_gemm_kernels(product, expected), name);
    });
  }
}

// By instruction set alone, as operators call it: sizes on both sides of where tiles pay.
void test_chosen() {
  for (size_t M : {size_t{50}, size_t{64}, size_t{70}})
    for (size_t K : {size_t{20}, size_t{90}}) {
      Random random(M + K);
      Case x;
      x.M = M;
      x.N = 75;
      x.K = K;
      Data data(x, random);
      std::vector<double> value(M * x.N), magnitude(M * x.N);
      gemm_reference(data.product, value.data(), magnitude.data());
      for_each_isa([&](Isa isa, const std::string& name) {
        Pool pool(2);
        std::vector<float> scratch(gemm_scratch(data.product, 2, isa) + 16);
        gemm(data.product, pool,
             reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64),
             isa);
        for (size_t i = 0; i < value.size(); ++i)
          CHECK_MESSAGE(std::fabs(double{data.c[i]} - value[i]) <=
                            kUnit * static_cast<double>(K + 2) * magnitude[i],
                        name + x.text());
      });
    }
}

// Rows more than 2³¹ elements apart, in address space of which little is ever touched.
void test_far_rows() {
  constexpr size_t kStride = (size_t{1} << 31) + 40;
  const size_t M = 20, N = 37, K = 3;
  const auto reserve = [&](size_t rows) {
    const size_t bytes = rows * kStride * sizeof(float);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    return std::pair{static_cast<float*>(memory), bytes};
  };
  const auto [a, a_bytes] = reserve(M);
  const auto [b, b_bytes] = reserve(N);
  const auto [c, c_bytes] = reserve(M);
  Random random(6);
  for (size_t m = 0; m < M; ++m)
    for (size_t k = 0; k < K; ++k) a[m * kStride + k] = random.uniform(-1, 1);
  for (size_t n = 0; n < N; ++n)
    for (size_t k = 0; k < K; ++k) b[n * kStride + k] = random.uniform(-1, 1);
  for (size_t rows : {size_t{1}, size_t{5}, M})
    for_each_isa([&, a = a, b = b, c = c](Isa isa, const std::string& name) {
      Product product = plain_product(rows, N, K);
      product.a = a;
      product.a_strides = {kStride, 1};
      product.b = b;
      product.b_strides = {1, kStride};
      product.c = c;
      product.ldc = kStride;
      std::vector<float> scratch(gemm_scratch(product, 1, isa) + 16);
      Serial alone;
      gemm(product, alone, scratch.data(), isa);
      for (size_t m = 0; m < rows; ++m)
        for (size_t n = 0; n < N; ++n) {
          double want = 0;
          for (size_t k = 0; k < K; ++k) want += double{a[m * kStride + k]} * b[n * kStride + k];
          CHECK_MESSAGE(std::fabs(c[m * kStride + n] - want) <= (K + 1) * kUnit * K, name);
        }
    });
  munmap(a, a_bytes);
  munmap(b, b_bytes);
  munmap(c, c_bytes);
}

// As IEEE 754 says: a NaN or ∞·0 anywhere in a sum makes it NaN, an infinity stays, and no other
// element of C sees it.
void test_non_finite() {
  for (size_t M : {size_t{1}, size_t{20}, size_t{40}})
    for (bool trans_b : {false, true}) {
      Case x;
      x.M = M;
      x.N = 35;
      x.K = M == 40 ? 75 : 23;
      x.trans_b = trans_b;
      Random random(4);
      Data data(x, random);
      const size_t row = M / 2;
      data.a[row * x.K + 5] = INFINITY;
      const auto b_at = [&](size_t k, size_t n) -> float& {
        return data.b[k * data.product.b_strides.row + n * data.product.b_strides.column];
      };
      for (size_t n = 0; n < x.N; ++n) b_at(5, n) = n == 7 ? 0.0f : n % 2 ? -1.0f : 1.0f;
      b_at(9, 33) = NAN;
      for_each_isa([&](Isa isa, const std::string& name) {
        const std::vector<float> c = run(data.product, data.c, 2, isa);
        for (size_t m = 0; m < x.M; ++m)
          for (size_t n = 0; n < x.N; ++n) {
            const float value = c[m * x.N + n];
            const bool ok = n == 33    ? std::isnan(value)
                            : m != row ? std::isfinite(value)
                            : n == 7   ? std::isnan(value)
                                       : std::isinf(value) && (value > 0) == (n % 2 == 0);
            CHECK_MESSAGE(ok, name + std::to_string(m) + " " + std::to_string(n));
          }
      });
    }
}

// Whole numbers whose products and sums fp32 holds exactly leave nothing to round: a term in the
// wrong place would show whatever the tolerance. Parts that AMX leaves out are zero in these.
void test_whole_numbers() {
  Random random(7);
  for (DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (int layout = 0; layout < 4; ++layout) {
      Case x;
      x.M = 50;
      x.N = 83;
      x.K = 600;
      x.trans_a = layout & 1;
      x.trans_b = layout & 2;
      x.b_dtype = dtype;
      Data data(x, random);
      // At most 600 · 2⁹ · 2⁵ < 2²⁴; 5 bits are a bf16's.
      for (float& v : data.a) v = static_cast<float>(static_cast<int>(random.bits() % 1025) - 512);
      for (float& v : data.b) v = static_cast<float>(static_cast<int>(random.bits() % 65) - 32);
      convert_floats(data.b.data(), DType::kFloat32, data.b16.data(),
                     dtype == DType::kFloat32 ? DType::kFloat16 : dtype, data.b.size());
      std::vector<double> value(x.M * x.N), magnitude(x.M * x.N);
      gemm_reference(data.product, value.data(), magnitude.data());
      for_each_isa([&](Isa isa, const std::string& name) {
        const std::vector<float> c = run(data.product, data.c, 2, isa);
        for (size_t i = 0; i < c.size(); ++i)
          CHECK_MESSAGE(double{c[i]} == value[i], name + x.text() + " " + std::to_string(i));
      });
    }
}

// A B of 16 bits gives the bits that its widened copy gives, whichever way the sizes choose.
void test_widened_b() {
  struct Shape {
    size_t M, N, K;
  };
  const Shape shapes[] = {{1, 70, 33},  {6, 200, 130}, {16, 300, 90},  {200, 3, 100},
                          {90, 16, 70}, {50, 60, 70},  {130, 200, 700}};
  Random random(9);
  for (const Shape& s : shapes)
    for (DType dtype : {DType::kBFloat16, DType::kFloat16})
      for (int layout = 0; layout < 8; ++layout) {
        Case x;
        x.M = s.M;
        x.N = s.N;
        x.K = s.K;
        x.trans_a = layout & 1;
        x.trans_b = layout & 2;
        x.accumulate = layout & 4;
        x.b_dtype = dtype;
        Data data(x, random);
        convert_floats(data.b16.data(), dtype, data.b.data(), DType::kFloat32, data.b.size());
        Product widened = data.product;
        widened.b = data.b.data();
        widened.b_dtype = DType::kFloat32;
        for_each_isa([&](Isa isa, const std::string& name) {
          CHECK_MESSAGE(run(data.product, data.c, 2, isa) == run(widened, data.c, 2, isa),
                        name + x.text());
        });
      }
}

// The ends of fp32's range: what rounds up to infinity in a shorter format, and what such a format
// cannot split (AMX takes parts below 2⁻¹²⁶ for zero: 2⁻¹²⁵ of the other factor, a term).
void test_extremes() {
  Case x;
  x.M = 40;
  x.N = 70;
  x.K = 65;
  Random random(8);
  Data data(x, random);
  const float largest = 0x1.fffffep127f;
  for (size_t m = 0; m < x.M; ++m)
    for (size_t k = 0; k < x.K; ++k) {
      float& value = data.a[m * x.K + k];
      if (m == 3) value *= 0x1p-128f;   // subnormal
      if (m == 17) value *= 0x1p-120f;  // its lower parts would be
      if (m == 18) value = k == 9 ? largest : 0;
      if (m == 19) value = k == 9 ? -largest : value;
      if (m == 33) value = k == 9 ? std::bit_cast<float>(0x7fffffff) : value;  // the last NaN
    }
  for (size_t n = 0; n < x.N; ++n) data.b[9 * x.N + n] = n % 2 ? 0.5f : -0.9990234375f;
  std::vector<double> value(x.M * x.N), magnitude(x.M * x.N);
  gemm_reference(data.product, value.data(), magnitude.data());
  for_each_isa([&](Isa isa, const std::string& name) {
    const double underflow = isa == Isa::kAmx ? 0x1p-125 * 3 * static_cast<double>(x.K) : 1e-40;
    const std::vector<float> c = run(data.product, data.c, 2, isa);
    for (size_t m = 0; m < x.M; ++m)
      for (size_t n = 0; n < x.N; ++n) {
        const size_t i = m * x.N + n;
        const double tolerance = kUnit * static_cast<double>(x.K + 2) * magnitude[i] + underflow;
        const bool ok =
            m == 33 ? std::isnan(c[i]) : std::fabs(double{c[i]} - value[i]) <= tolerance;
        CHECK_MESSAGE(ok, name + std::to_string(m) + " " + std::to_string(n));
      }
  });
}

}  // namespace

int main(int argc, char** argv) {
  return run_tests(argc, argv,
                   {
                       {"shapes", test_shapes},
                       {"everything_at_once", test_everything_at_once},
                       {"blocks", test_blocks},
                       {"skinny", test_skinny},
                       {"ways", test_ways},
                       {"batches", test_batches},
                       {"shares", test_shares},
                       {"choice", test_choice},
                       {"chosen", test_chosen},
                       {"far_rows", test_far_rows},
                       {"non_finite", test_non_finite},
                       {"whole_numbers", test_whole_numbers},
                       {"widened_b", test_widened_b},
                       {"extremes", test_extremes},
                   });
}
