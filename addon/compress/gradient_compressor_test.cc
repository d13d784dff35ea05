// Lossy gradient sums: loops against themselves typed out, bit for bit; all three compressors over
// ranks that are threads: what was given is what was received and what was kept, over 1,000 steps;
// a value that is not finite; arguments out of range. src/native/gradient-compression.test.ts
// compares whole calls with their formulas.
#include "compress/gradient_compressor.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>
#include <tuple>
#include <utility>

#include "comm/backends.h"
#include "compress/int8_kernels.h"
#include "compress/low_rank_kernels.h"
#include "compress/top_k_kernels.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

void test_int8_loops(Isa isa, const std::string& name) {
  const Int8Kernels& fast = int8_kernels(isa);
  const Int8Kernels& plain = kInt8Reference;
  for (const size_t count : {0, 1, 3, 8, 15, 16, 17, 64, 100, 257}) {
    const std::string what = name + std::to_string(count);
    Random random(count + 1);
    std::vector<float> x = random.vector(count), want_x = x;
    const std::vector<float> error = random.vector(count);
    const uint32_t peak = fast.compensate(x.data(), error.data(), count);
    CHECK_MESSAGE(peak == plain.compensate(want_x.data(), error.data(), count), what);
    CHECK_MESSAGE(x == want_x && fast.peak(x.data(), count) == peak, what);
    // Halves, which go to the even neighbour, among them.
    for (size_t i = 0; i < count; i += 3) x[i] = static_cast<float>(i % 11) - 5.5f;
    const float inverse = 1;
    std::vector<int8_t> q(count + 1, 77), want_q = q;
    fast.quantise(x.data(), inverse, q.data(), count);
    plain.quantise(x.data(), inverse, want_q.data(), count);
    CHECK_MESSAGE(q == want_q && q.back() == 77, what);
    const float scale = 0.037f;
    for (const auto loop : {&Int8Kernels::decode, &Int8Kernels::accumulate}) {
      std::vector<float> y(count + 1, 3), want_y = y;
      (fast.*loop)(q.data(), scale, y.data(), count);
      (plain.*loop)(q.data(), scale, want_y.data(), count);
      CHECK_MESSAGE(y == want_y && y.back() == 3, what);
    }
    std::vector<float> y(count + 1, 3), want_y = y;
    fast.residual(x.data(), q.data(), scale, y.data(), count);
    plain.residual(x.data(), q.data(), scale, want_y.data(), count);
    CHECK_MESSAGE(y == want_y && y.back() == 3, what);
  }
  for (const size_t count : {0, 1, 2, 31, 32, 33, 64, 101}) {
    std::vector<int8_t> q(count), back(count + 1, 77), want_back = back;
    for (size_t i = 0; i < count; ++i) q[i] = static_cast<int8_t>(static_cast<int>(i * 7 % 16) - 8);
    std::vector<uint8_t> packed((count + 1) / 2 + 1, 9), want = packed;
    fast.pack4(q.data(), packed.data(), count);
    plain.pack4(q.data(), want.data(), count);
    CHECK_MESSAGE(packed == want && packed.back() == 9, name);
    fast.unpack4(packed.data(), back.data(), count);
    plain.unpack4(packed.data(), want_back.data(), count);
    CHECK_MESSAGE(back == want_back && back.back() == 77, name);
    CHECK_MESSAGE(std::equal(q.begin(), q.end(), back.begin()), name);
  }
  float values[] = {1, std::nanf(""), 2};
  CHECK_MESSAGE(fast.peak(values, 3) > Int8Kernels::kInfinity, name);
}

void test_low_rank_loops(Isa isa, const std::string& name) {
  const LowRankKernels& fast = low_rank_kernels(isa);
  const LowRankKernels& plain = kLowRankReference;
  for (const size_t rows : {1, 5, 40})
    for (const size_t columns : {1, 7, 16, 37})
      for (const size_t rank : {1, 3, 6}) {
        const std::string what = name + std::to_string(rows) + "x" + std::to_string(columns) + " " +
                                 std::to_string(rank);
        Random random(rows * columns);
        const std::vector<float> error = random.vector(rows * columns);
        std::vector<float> m = random.vector(rows * columns), want_m = m;
        std::vector<float> q = random.vector(rank * columns), want_q = q;
        std::vector<float> p(rank * rows), want_p = p;
        std::vector<double> work(rank * std::max({rows, columns, LowRankKernels::kRows}));
        fast.project(m.data(), error.data(), rows, columns, q.data(), rank, p.data());
        plain.project(want_m.data(), error.data(), rows, columns, q.data(), rank, want_p.data());
        CHECK_MESSAGE(p == want_p && m == want_m, what);
        fast.orthonormalise(p.data(), rows, rank, work.data());
        plain.orthonormalise(want_p.data(), rows, rank, work.data());
        CHECK_MESSAGE(p == want_p, what);
        fast.project_back(m.data(), rows, columns, p.data(), rank, q.data(), work.data());
        plain.project_back(m.data(), rows, columns, p.data(), rank, want_q.data(), work.data());
        CHECK_MESSAGE(q == want_q, what);
        const std::vector<float> own_q = random.vector(rank * columns);
        std::vector<float> y(m.size()), want_y = y;
        fast.exchange(m.data(), p.data(), own_q.data(), q.data(), rank, rows, columns, y.data(),
                      work.data());
        plain.exchange(want_m.data(), p.data(), own_q.data(), q.data(), rank, rows, columns,
                       want_y.data(), nullptr);
        CHECK_MESSAGE(y == want_y && m == want_m, what);
      }
  // Two columns of one direction: one is left, the other is 0 and no 0/0.
  std::vector<float> p{1, 2, 2, 2, 4, 4}, none(6);
  std::vector<double> work(6);
  fast.orthonormalise(p.data(), 3, 2, work.data());
  CHECK_MESSAGE(std::fabs(p[0] - 1.0f / 3) < 1e-6f && p[3] == 0 && p[5] == 0, name);
  fast.orthonormalise(none.data(), 3, 2, work.data());
  CHECK_MESSAGE(none == std::vector<float>(6), name);
}

void test_top_k_loop(Isa isa, const std::string& name) {
  for (const size_t count : {0, 1, 3, 15, 16, 17, 100})
    for (const float least : {0.0f, 0.5f, 9.0f})
      for (const bool adds : {true, false}) {
        const std::string what = name + std::to_string(count);
        Random random(count + 1);
        std::vector<float> x = random.vector(count), want_x = x;
        const std::vector<float> error = random.vector(count);
        const auto run = [&](const TopKKernels& kernels, std::vector<float>& values) {
          std::vector<uint32_t> places(count + Candidates::kSlack + 2);
          std::vector<float> found(places.size());
          // Behind two that are there already.
          Candidates candidates{places.data(), found.data(), 2};
          const uint32_t peak = kernels.collect(values.data(), adds ? error.data() : nullptr, count,
                                                40, std::bit_cast<uint32_t>(least), candidates);
          places.resize(candidates.found);
          found.resize(candidates.found);
          return std::tuple(peak, places, found);
        };
        CHECK_MESSAGE(run(top_k_kernels(isa), x) == run(kTopKReference, want_x), what);
        CHECK_MESSAGE(x == want_x, what);
      }
}

// The k largest by sorting all, with what a sample tells wrongly or not at all: equal values,
// zeros, large values in every line that a sample looks at or in none.
void test_top_k_selection() {
  const auto communicator = make_solo();
  using Maker = float (*)(size_t i, float random);
  const Maker makers[] = {
      [](size_t, float random) { return random; },
      [](size_t i, float) { return i % 2 == 0 ? 3.0f : -3.0f; },
      [](size_t, float) { return 0.0f; },
      [](size_t i, float random) { return i % 1000 == 7 ? random : 0.0f; },
      [](size_t i, float random) { return i / 16 % 4 == 0 ? 100 + random : random; },
      [](size_t i, float random) { return i / 16 % 4 == 3 ? 100 + random : random; },
  };
  for (const size_t count : {1, 5, 1000, 65536 + 50})
    for (const double ratio : {0.01, 0.3, 1.0})
      for (size_t maker = 0; maker < std::size(makers); ++maker) {
        const std::string what = "top-k of " + std::to_string(count) + ", " +
                                 std::to_string(ratio) + ", " + std::to_string(maker);
        Random random(count);
        std::vector<float> x = random.vector(count), error(count, 0.25f);
        for (size_t i = 0; i < count; ++i) x[i] = makers[maker](i, x[i]) - 0.25f;
        std::vector<float> want(count), want_error(count);
        std::vector<size_t> order(count);
        for (size_t i = 0; i < count; ++i) {
          want_error[i] = x[i] + error[i];
          order[i] = i;
        }
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
          return std::fabs(want_error[a]) > std::fabs(want_error[b]);
        });
        order.resize(static_cast<size_t>(std::ceil(ratio * static_cast<double>(count))));
        for (const size_t i : order) want[i] = std::exchange(want_error[i], 0.0f);
        GradientCompression compression{GradientCompression::Kind::kTopK, 0, ratio, 0};
        const auto compressor = make_gradient_compressor(
            compression, *communicator, {{0, 1, count}}, std::make_shared<MemoryAccount>());
        compressor->run(x.data(), error.data(), nullptr);
        CHECK_MESSAGE(x == want && error == want_error, what);
      }
}

// ---------------------------------------------------------------- over ranks

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  static std::atomic<int> counter{0};
  const std::string key = "gradient compression " + std::to_string(counter.fetch_add(1));
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < ranks; ++rank)
    communicators.push_back(make_inprocess(key, rank, ranks, 60'000));
  std::vector<std::thread> threads;
  for (auto& communicator : communicators)
    threads.emplace_back([&body, &communicator] {
      body(*communicator);
      communicator.reset();
    });
  for (std::thread& thread : threads) thread.join();
}

using Kind = GradientCompression::Kind;
const GradientCompression kCompressions[] = {
    {Kind::kInt8, 32, 0, 0}, {Kind::kTopK, 0, 0.1, 0}, {Kind::kPowerSgd, 0, 0, 2}};
const char* name_of(const GradientCompression& compression) {
  return compression.kind == Kind::kInt8   ? "int8"
         : compression.kind == Kind::kTopK ? "topk"
                                           : "powersgd";
}

// A matrix, a vector and a gap that belongs to neither.
const std::vector<CompressedTensor> kTensors{{0, 12, 10}, {128, 1, 21}};
constexpr size_t kCount = 149;

std::vector<float> gradient_of(uint64_t step, uint64_t rank) {
  std::vector<float> gradient = Random(1000 * step + rank).vector(kCount);
  for (size_t i = 120; i < 128; ++i) gradient[i] = 99;
  return gradient;
}

void test_feedback_identity(const GradientCompression& compression, int ranks) {
  constexpr int kSteps = 1000;
  const auto n = static_cast<size_t>(ranks);
  std::vector<std::vector<float>> errors(n, std::vector<float>(kCount)), results(n, errors[0]);
  std::vector<double> given(kCount), received(kCount);
  double largest = 0;
  run_ranks(ranks, [&](Communicator& communicator) {
    const auto r = static_cast<size_t>(communicator.rank());
    const auto compressor = make_gradient_compressor(compression, communicator, kTensors,
                                                     std::make_shared<MemoryAccount>());
    std::vector<float> factors(compressor->factors());
    for (uint64_t step = 0; step < kSteps; ++step) {
      results[r] = gradient_of(step, r);
      compressor->run(results[r].data(), errors[r].data(), factors.data());
      if (r != 0) continue;
      for (uint64_t rank = 0; rank < n; ++rank) {
        const std::vector<float> gradient = gradient_of(step, rank);
        for (size_t i = 0; i < kCount; ++i) given[i] += gradient[i];
      }
      for (size_t i = 0; i < kCount; ++i) {
        received[i] += results[r][i];
        largest = std::max(largest, std::fabs(double{results[r][i]}));
      }
    }
  });
  const std::string what = name_of(compression) + std::string(" ") + std::to_string(ranks);
  for (const std::vector<float>& error : errors)
    for (const float value : error) largest = std::max(largest, std::fabs(double{value}));
  // A step rounds each element of a rank at most six times and adds up the ranks.
  const double tolerance = kSteps * 6 * static_cast<double>(ranks) * largest * kEpsilon;
  for (size_t i = 0; i < kCount; ++i) {
    if (i >= 120 && i < 128) {
      CHECK_MESSAGE(results[0][i] == 99 && errors[0][i] == 0, what + " touches a gap");
      continue;
    }
    double kept = 0;
    for (const std::vector<float>& error : errors) kept += error[i];
    const double lost = given[i] - received[i] - kept;
    CHECK_MESSAGE(std::fabs(lost) <= tolerance,
                  what + ": element " + std::to_string(i) + " lost " + std::to_string(lost));
  }
  for (const std::vector<float>& result : results)
    CHECK_MESSAGE(result == results[0], what + ": ranks differ");
}

// A compressor whose share changes does what one does that was made with it.
void test_changing_ratio() {
  run_ranks(3, [&](Communicator& communicator) {
    const auto made = [&](double ratio) {
      return make_gradient_compressor({Kind::kTopK, 0, ratio, 0}, communicator, kTensors,
                                      std::make_shared<MemoryAccount>());
    };
    const auto changing = made(0.25);
    std::vector<float> error(kCount), want_error(kCount);
    uint64_t step = 0;
    for (const double ratio : {0.25, 0.1, 0.1, 1.0, 0.01}) {
      std::vector<float> x = gradient_of(++step, static_cast<uint64_t>(communicator.rank()));
      std::vector<float> want = x;
      changing->set_ratio(ratio);
      changing->run(x.data(), error.data(), nullptr);
      made(ratio)->run(want.data(), want_error.data(), nullptr);
      CHECK_MESSAGE(x == want && error == want_error, "top-k, then " + std::to_string(ratio));
    }
  });
}

// All tensors of all ranks become NaN, and nothing else changes.
void test_non_finite(const GradientCompression& compression) {
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")})
    run_ranks(3, [&](Communicator& communicator) {
      const auto r = static_cast<uint64_t>(communicator.rank());
      const auto compressor = make_gradient_compressor(compression, communicator, kTensors,
                                                       std::make_shared<MemoryAccount>());
      std::vector<float> x = gradient_of(0, r), error(kCount), factors(compressor->factors());
      compressor->run(x.data(), error.data(), factors.data());
      const std::vector<float> before = error, factors_before = factors;
      x = gradient_of(1, r);
      if (r == 1) x[55] = value;
      compressor->run(x.data(), error.data(), factors.data());
      const std::string what = name_of(compression);
      CHECK_MESSAGE(std::isnan(x[0]) && std::isnan(x[148]) && x[120] == 99, what);
      CHECK_MESSAGE(error == before && factors == factors_before, what);
    });
}

void test_arguments() {
  run_ranks(1, [](Communicator& communicator) {
    const auto refused = [&](const GradientCompression& compression,
                             const std::vector<CompressedTensor>& tensors) {
      try {
        make_gradient_compressor(compression, communicator, tensors,
                                 std::make_shared<MemoryAccount>());
      } catch (const EngineError& error) {
        return error.code() == "INVALID_ARGUMENT";
      }
      return false;
    };
    for (const GradientCompression& compression : kCompressions) {
      CHECK(refused(compression, {}));
      CHECK(refused(compression, {{0, 0, 4}}));
      CHECK(refused(compression, {{0, 4, 4}, {15, 1, 2}}));
      CHECK(!refused(compression, {{0, 4, 4}, {16, 1, 2}}));
    }
    CHECK(refused({Kind::kInt8, 0, 0, 0}, kTensors));
    CHECK(refused({Kind::kTopK, 0, 1.5, 0}, kTensors));
    CHECK(refused({Kind::kPowerSgd, 0, 0, 0}, kTensors));
    for (const GradientCompression& compression : kCompressions) {
      const auto made = make_gradient_compressor(compression, communicator, kTensors,
                                                 std::make_shared<MemoryAccount>());
      bool taken = true;
      try {
        made->set_ratio(0.5);
      } catch (const EngineError&) {
        taken = false;
      }
      CHECK(taken == (compression.kind == Kind::kTopK));
    }
  });
}

}  // namespace

int main() {
  for_each_isa(test_int8_loops);
  for_each_isa(test_low_rank_loops);
  for_each_isa(test_top_k_loop);
  test_top_k_selection();
  for (const GradientCompression& compression : kCompressions) {
    for (const int ranks : {1, 2, 5}) test_feedback_identity(compression, ranks);
    test_non_finite(compression);
  }
  test_changing_ratio();
  test_arguments();
  return summary();
}
