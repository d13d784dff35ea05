// One-bit compression: loops against themselves typed out, bit for bit; the all-reduce over ranks
// that are threads against the formulas on one thread; what was sent and what was kept add up.
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "comm/backends.h"
#include "compress/compressed_all_reduce.h"
#include "compress/sign_kernels.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

const size_t kCounts[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 64, 100, 1003};

// ---------------------------------------------------------------- loops

std::vector<float> with_zeros(Random& random, size_t count) {
  std::vector<float> values = random.vector(count);
  for (size_t i = 0; i < count; i += 5) values[i] = i % 2 == 0 ? 0.0f : -0.0f;
  return values;
}

void test_loops(Isa isa, const std::string& name) {
  const SignKernels& fast = sign_kernels(isa);
  const SignKernels& plain = kSignReference;
  for (const size_t count : kCounts) {
    const std::string what = name + std::to_string(count);
    Random random(count + 1);
    const std::vector<float> x = with_zeros(random, count);
    std::vector<float> error = with_zeros(random, count), want_error = error;
    CHECK_MESSAGE(fast.compensate(x.data(), error.data(), count) ==
                      plain.compensate(x.data(), want_error.data(), count),
                  what);
    CHECK_MESSAGE(error == want_error, what);

    std::vector<uint8_t> bits(sign_bytes(count) + 1, 0xa5), want_bits = bits;
    fast.pack(error.data(), 0.25f, bits.data(), count);
    plain.pack(want_error.data(), 0.25f, want_bits.data(), count);
    CHECK_MESSAGE(bits == want_bits, what);
    CHECK_MESSAGE(error == want_error, what);
    CHECK_MESSAGE(bits.back() == 0xa5, what + " writes behind its bits");

    std::vector<float> y(count + 1, 7), want_y = y;
    fast.unpack(bits.data(), 0.25f, y.data(), count);
    plain.unpack(bits.data(), 0.25f, want_y.data(), count);
    CHECK_MESSAGE(y == want_y && y.back() == 7, what);

    const std::vector<uint8_t> more(sign_bytes(count), 0x3c), most(sign_bytes(count), 0x91);
    const uint8_t* all[] = {bits.data(), more.data(), most.data(), bits.data(),
                            most.data(), bits.data(), more.data(), more.data()};
    const float scales[] = {0.1f, 0.7f, 3.0f, 0.3f, 0, 1e-3f, 17, 0.6f};
    for (const size_t ranks : {1, 2, 3, 4, 5, 6, 7, 8}) {
      CHECK_MESSAGE(fast.average(all, scales, ranks, error.data(), count) ==
                        plain.average(all, scales, ranks, want_error.data(), count),
                    what);
      CHECK_MESSAGE(error == want_error, what);
    }
  }
}

// ---------------------------------------------------------------- the collective

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  static std::atomic<int> counter{0};
  const std::string key = "compress test " + std::to_string(counter.fetch_add(1));
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

struct Errors {
  std::vector<float> worker, server;
};

// Which rank serves which block, worked out from the rule alone.
struct Block {
  size_t offset, count, server;
};
std::vector<Block> blocks_of(const std::vector<size_t>& tensors, size_t ranks) {
  size_t total = 0;
  for (const size_t length : tensors) total += length;
  std::vector<Block> blocks;
  size_t offset = 0;
  for (const size_t length : tensors)
    for (size_t left = length; left > 0; left -= blocks.back().count) {
      size_t server = 0;
      while (offset >= total * (server + 1) / ranks) ++server;
      blocks.push_back({offset, std::min<size_t>(1024, left), server});
      offset += blocks.back().count;
    }
  return blocks;
}

// Algorithm 1 over all ranks' vectors, by the typed-out loops; `errors` are as long as the vectors.
// Returns the result of every rank.
std::vector<float> reference(const std::vector<std::vector<float>>& xs, std::vector<Errors>& errors,
                             const std::vector<Block>& blocks) {
  const size_t n = xs.size();
  std::vector<float> result(xs[0].size());
  for (const auto& [offset, count, server] : blocks) {
    const auto scale = [count = count](double squares) {
      return static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
    };
    std::vector<std::vector<uint8_t>> bits(n, std::vector<uint8_t>(sign_bytes(count)));
    std::vector<const uint8_t*> pointers;
    std::vector<float> scales;
    for (size_t r = 0; r < n; ++r) {
      float* error = errors[r].worker.data() + offset;
      scales.push_back(scale(kSignReference.compensate(xs[r].data() + offset, error, count)));
      kSignReference.pack(error, scales[r], bits[r].data(), count);
      pointers.push_back(bits[r].data());
    }
    float* error = errors[server].server.data() + offset;
    const float sent =
        scale(kSignReference.average(pointers.data(), scales.data(), n, error, count));
    kSignReference.pack(error, sent, bits[0].data(), count);
    kSignReference.unpack(bits[0].data(), sent, result.data() + offset, count);
  }
  return result;
}

void test_all_reduce(int ranks, const std::vector<size_t>& tensors, size_t chunk_elements) {
  const size_t n = static_cast<size_t>(ranks);
  const std::vector<Block> blocks = blocks_of(tensors, n);
  const size_t count = blocks.empty() ? 0 : blocks.back().offset + blocks.back().count;
  const std::string what = std::to_string(ranks) + " ranks, " + std::to_string(count);
  std::vector<Errors> want(n, {std::vector<float>(count), std::vector<float>(count)});
  std::vector<Errors> got = want;
  for (int step = 0; step < 4; ++step) {
    std::vector<std::vector<float>> xs;
    for (size_t r = 0; r < n; ++r) {
      Random random(1000 * static_cast<uint64_t>(step) + r);
      xs.push_back(step == 2 ? std::vector<float>(count) : with_zeros(random, count));
    }
    const std::vector<float> result = reference(xs, want, blocks);
    run_ranks(ranks, [&](Communicator& communicator) {
      const auto r = static_cast<size_t>(communicator.rank());
      CompressedAllReduce reduce(communicator, tensors, std::make_shared<MemoryAccount>(),
                                 chunk_elements);
      size_t begin = 0;
      while (begin < blocks.size() && blocks[begin].server < r) ++begin;
      size_t served = 0;
      for (const Block& block : blocks) served += block.server == r ? block.count : 0;
      CHECK_MESSAGE(reduce.count() == count && reduce.served() == served, what);
      std::vector<float> x = xs[r];
      float* server = got[r].server.data() + (begin < blocks.size() ? blocks[begin].offset : 0);
      reduce.run(x.data(), got[r].worker.data(), server);
      CHECK_MESSAGE(x == result, what);
      CHECK_MESSAGE(got[r].worker == want[r].worker, what);
      CHECK_MESSAGE(got[r].server == want[r].server, what);
    });
  }
}

// Over many steps nothing is lost: the sum of what two ranks gave, halved, is the sum of the
// results and what the errors still hold. Each step rounds eight times at most.
void test_feedback_identity() {
  constexpr size_t kCount = 130;
  constexpr int kSteps = 1000;
  const std::vector<size_t> tensors{100, 30};
  std::vector<double> given(kCount), received(kCount);
  std::vector<Errors> errors(2, {std::vector<float>(kCount), std::vector<float>()});
  double largest = 0;
  run_ranks(2, [&](Communicator& communicator) {
    const auto r = static_cast<size_t>(communicator.rank());
    CompressedAllReduce reduce(communicator, tensors, std::make_shared<MemoryAccount>());
    errors[r].server.resize(reduce.served());
    for (int step = 0; step < kSteps; ++step) {
      std::vector<std::vector<float>> xs;
      for (uint64_t rank = 0; rank < 2; ++rank)
        xs.push_back(Random(77 * static_cast<uint64_t>(step) + rank).vector(kCount));
      std::vector<float> x = xs[r];
      reduce.run(x.data(), errors[r].worker.data(), errors[r].server.data());
      if (r != 0) continue;
      for (size_t i = 0; i < kCount; ++i) {
        given[i] += (double{xs[0][i]} + xs[1][i]) / 2;
        received[i] += x[i];
        largest = std::max(largest, std::fabs(double{x[i]}));
      }
    }
  });
  std::vector<float> served = errors[0].server;
  served.insert(served.end(), errors[1].server.begin(), errors[1].server.end());
  double size = largest;
  for (const std::vector<float>* kept : {&errors[0].worker, &errors[1].worker, &served})
    for (const float value : *kept) size = std::max(size, std::fabs(double{value}));
  const double tolerance = kSteps * 8 * size * kEpsilon;
  CHECK(served.size() == kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const double kept = (double{errors[0].worker[i]} + errors[1].worker[i]) / 2 + served[i];
    CHECK_MESSAGE(
        std::fabs(given[i] - received[i] - kept) <= tolerance,
        "element " + std::to_string(i) + " lost " + std::to_string(given[i] - received[i] - kept));
  }
}

// Also where it is in a later chunk.
void test_non_finite(size_t chunk_elements) {
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")})
    run_ranks(3, [&](Communicator& communicator) {
      CompressedAllReduce reduce(communicator, {150, 50}, std::make_shared<MemoryAccount>(),
                                 chunk_elements);
      std::vector<float> x(200, 1), worker(200), server(reduce.served());
      if (communicator.rank() == 1) x[150] = value;
      std::string said;
      try {
        reduce.run(x.data(), worker.data(), server.data());
      } catch (const EngineError& error) {
        said = error.code() + ": " + error.what();
      }
      CHECK_MESSAGE(said.find("NON_FINITE") == 0 && said.find("on rank 1") != std::string::npos,
                    said);
      CHECK(x[0] == 1);
    });
}

void test_bytes() {
  run_ranks(4, [](Communicator& communicator) {
    const size_t count = 1 << 20;
    CompressedAllReduce reduce(communicator, {count}, std::make_shared<MemoryAccount>());
    const double dense = 2.0 * 3 / 4 * count * sizeof(float);
    CHECK(dense / static_cast<double>(reduce.bytes_sent()) > 30.9);
  });
}

void test_all_reduces() {
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const std::vector<size_t>& tensors : std::vector<std::vector<size_t>>{
             {}, {0}, {1}, {63}, {5, 1, 1030}, {2048, 7}, {3000}, {1, 1, 1, 1, 1, 1, 1, 1}})
      for (const size_t chunk_elements : {CompressedAllReduce::kChunkElements, size_t{700}})
        test_all_reduce(ranks, tensors, chunk_elements);
}

}  // namespace

int main(int argc, char** argv) {
  return run_tests(argc, argv,
                   {
                       {"loops", [] { for_each_isa(test_loops); }},
                       {"all_reduces", test_all_reduces},
                       {"feedback_identity", test_feedback_identity},
                       {"non_finite",
                        [] {
                          for (const size_t chunk_elements : {200, 100})
                            test_non_finite(chunk_elements);
                        }},
                       {"bytes", test_bytes},
                   });
}
