// Blocks of few bits: within half a step of what they stand for, the same bytes on every
// instruction set; collectives over ranks that are threads against sums of what was quantised.
#include "compress/block_quantiser.h"

#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "comm/backends.h"
#include "core/half.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

const BlockQuantisation kWays[] = {{8, 64}, {4, 64}, {8, 2}, {4, 6}, {4, 256}};

std::string name_of(const BlockQuantisation& how) {
  return std::to_string(how.bits) + " bits by " + std::to_string(how.block) + " ";
}

// What arrives of x when it has travelled.
std::vector<float> travelled(const BlockQuantisation& how, const std::vector<float>& x, Isa isa) {
  std::vector<uint8_t> wire(quantised_bytes(how, x.size()));
  quantise_blocks(how, x.data(), DType::kFloat32, x.size(), wire.data(), isa);
  std::vector<float> y(x.size(), 9);
  dequantise_blocks(how, wire.data(), y.size(), y.data(), DType::kFloat32, false, isa);
  return y;
}

void test_blocks(const BlockQuantisation& how) {
  const double levels = how.bits == 8 ? 127 : 7;
  for (const size_t count : {0, 1, 5, 63, 64, 65, 1000}) {
    std::vector<float> x = Random(count + 3).vector(count, -3, 3);
    for (size_t i = 0; i < std::min<size_t>(count, how.block); ++i) x[i] = 0;
    const std::vector<float> plain = travelled(how, x, Isa::kPortable);
    for_each_isa([&](Isa isa, const std::string& isa_name) {
      const std::string name = isa_name + name_of(how) + std::to_string(count);
      const std::vector<float> y = travelled(how, x, isa);
      CHECK_MESSAGE(y == plain, name);
      bool close = true;
      for (size_t first = 0; first < count; first += how.block) {
        const size_t end = std::min(count, first + how.block);
        double peak = 0;
        for (size_t i = first; i < end; ++i) peak = std::fmax(peak, std::fabs(x[i]));
        // Half a step, and the roundings of the scale, of the quotient and of the product.
        const double bound = peak / levels * 0.5 + 4 * peak * kEpsilon;
        for (size_t i = first; i < end; ++i) close = close && std::fabs(x[i] - y[i]) <= bound;
      }
      CHECK_MESSAGE(close, name);
      // What has travelled travels unchanged: all ranks go on holding the same.
      CHECK_MESSAGE(travelled(how, y, isa) == y, name);
    });
  }
}

void test_not_finite(const BlockQuantisation& how) {
  std::vector<float> x(2 * how.block, 1);
  x[how.block] = std::numeric_limits<float>::infinity();
  const std::vector<float> y = travelled(how, x, active_isa());
  CHECK_MESSAGE(y[0] == 1 && std::isnan(y[how.block]) && std::isnan(y.back()), name_of(how));
}

void test_sixteen_bits(const BlockQuantisation& how) {
  const std::vector<float> x = Random(5).vector(301, -2, 2);
  for (const DType type : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> narrow(x.size()), got(x.size()), want(x.size());
    std::vector<float> wide(x.size());
    convert_floats(x.data(), DType::kFloat32, narrow.data(), type, x.size());
    convert_floats(narrow.data(), type, wide.data(), DType::kFloat32, x.size());
    const std::vector<float> arrived = travelled(how, wide, active_isa());
    convert_floats(arrived.data(), DType::kFloat32, want.data(), type, x.size());
    std::vector<uint8_t> wire(quantised_bytes(how, x.size()));
    quantise_blocks(how, narrow.data(), type, x.size(), wire.data());
    dequantise_blocks(how, wire.data(), got.size(), got.data(), type, false);
    CHECK_MESSAGE(got == want, name_of(how));
  }
}

// ---------------------------------------------------------------- over ranks

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  static std::atomic<int> counter{0};
  const std::string key = "block quantiser " + std::to_string(counter.fetch_add(1));
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

// Uneven shards with a gap, one of them empty.
std::vector<Shard> shards_of(size_t ranks) {
  std::vector<Shard> shards;
  size_t offset = 0;
  for (size_t r = 0; r < ranks; ++r) {
    const size_t count = r == 1 ? 0 : 100 + 37 * r;
    shards.push_back({offset, count});
    offset += count + 3;
  }
  return shards;
}

std::vector<float> values_of(size_t rank, size_t count) {
  return Random(77 + rank).vector(count, -1, 1);
}

uint64_t bytes_of(const Communicator& communicator, const std::string& operation) {
  uint64_t sum = 0;
  for (const CommStat& stat : communicator.stats())
    if (stat.operation == operation) sum += stat.bytes * stat.calls;
  return sum;
}

std::vector<float> piece(const std::vector<float>& all, const Shard& shard) {
  return {all.begin() + static_cast<long>(shard.offset),
          all.begin() + static_cast<long>(shard.offset + shard.count)};
}

void test_collectives(int ranks, const BlockQuantisation& how) {
  const std::vector<Shard> shards = shards_of(static_cast<size_t>(ranks));
  const size_t count = shards.back().offset + shards.back().count;
  const std::string name = name_of(how) + std::to_string(ranks) + " ranks ";
  run_ranks(ranks, [&](Communicator& communicator) {
    const auto account = std::make_shared<MemoryAccount>();
    QuantisedCollectives collectives(how, 300, communicator, account);
    const auto me = static_cast<size_t>(communicator.rank());
    const std::vector<float> own = values_of(me, count);

    std::vector<float> gathered = own, want = own;
    for (size_t r = 0; r < shards.size(); ++r) {
      const std::vector<float> part =
          travelled(how, piece(values_of(r, count), shards[r]), active_isa());
      std::copy(part.begin(), part.end(), want.begin() + static_cast<long>(shards[r].offset));
    }
    collectives.all_gather(gathered.data(), DType::kFloat32, shards);
    CHECK_MESSAGE(gathered == want, name + "all-gather");

    for (const bool accumulate : {false, true}) {
      std::vector<float> target(shards[me].count, 0.5f), sum(target.size(), accumulate ? 0.5f : 0);
      for (size_t r = 0; r < shards.size(); ++r) {
        std::vector<float> term = piece(values_of(r, count), shards[me]);
        if (r != me) term = travelled(how, term, active_isa());
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += term[i];
      }
      collectives.reduce_scatter(own.data(), shards, target.data(), accumulate);
      CHECK_MESSAGE(target == sum, name + "reduce-scatter");
      if (accumulate) continue;
      std::vector<float> in_place = own;
      float* const part = in_place.data() + shards[me].offset;
      collectives.reduce_scatter(in_place.data(), shards, part, false);
      CHECK_MESSAGE(std::equal(sum.begin(), sum.end(), part), name + "in place");
    }
    // Three times, each rank has sent the others' parts as they travel.
    uint64_t sent = 0;
    for (size_t r = 0; r < shards.size(); ++r)
      if (r != me) sent += quantised_bytes(how, shards[r].count);
    CHECK_MESSAGE(bytes_of(communicator, "send") == 3 * sent, name + "bytes");
  });
}

void test_refused() {
  run_ranks(1, [](Communicator& communicator) {
    const auto account = std::make_shared<MemoryAccount>();
    const auto make = [&](const BlockQuantisation& how) {
      QuantisedCollectives made(how, 10, communicator, account);
      std::vector<float> data(11);
      made.all_gather(data.data(), DType::kFloat32, {{0, 11}});
    };
    CHECK_THROWS_CODE(make({3, 64}), "INVALID_ARGUMENT");
    CHECK_THROWS_CODE(make({4, 0}), "INVALID_ARGUMENT");
    CHECK_THROWS_CODE(make({4, 7}), "INVALID_ARGUMENT");
    CHECK_THROWS_CODE(make({8, 64}), "INVALID_ARGUMENT");
  });
}

}  // namespace

int main() {
  for (const BlockQuantisation& how : kWays) {
    test_blocks(how);
    test_not_finite(how);
    test_sixteen_bits(how);
    for (const int ranks : {1, 2, 3}) test_collectives(ranks, how);
  }
  test_refused();
  return summary();
}
