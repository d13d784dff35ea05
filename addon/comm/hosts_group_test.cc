// The communicator of several machines, made up of threads: the suite of group_test.cc over several
// ways to spread ranks over machines.
#include "comm/hosts_group.h"

#include <atomic>
#include <thread>

#include "comm/backends.h"
#include "comm/conformance.h"
#include "comm/lane_choice.h"

using namespace dsjs;
using namespace dsjs::conformance;

namespace {

std::vector<int> first(const std::vector<int>& pattern, int ranks) {
  return {pattern.begin(), pattern.begin() + ranks};
}

void play(const std::vector<int>& host_of, const Rank& body, double hang_timeout_ms) {
  static std::atomic<int> counter{0};
  const std::string key = "hosts " + std::to_string(counter.fetch_add(1));
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (size_t rank = 0; rank < host_of.size(); ++rank)
    communicators.push_back(
        make_inprocess_hosts(key, static_cast<int>(rank), host_of, hang_timeout_ms));
  std::vector<std::thread> threads;
  for (auto& communicator : communicators)
    threads.emplace_back([&body, &communicator] {
      try {
        body(*communicator);
      } catch (const EngineError& error) {
        CHECK_MESSAGE(false, error.code() + ": " + error.what());
      }
      communicator.reset();
    });
  for (std::thread& thread : threads) thread.join();
}

Stage stage_of(const std::vector<int>& pattern) {
  return {[pattern](int ranks, const Rank& body, double hang_timeout_ms) {
            play(first(pattern, ranks), body, hang_timeout_ms);
          },
          [pattern](int ranks) { return first(pattern, ranks); }};
}

// Several windows, so that the scratch is used again, and hosts of different sizes.
void test_large(const std::vector<int>& host_of) {
  play(
      host_of,
      [&](Communicator& world) {
        const int ranks = world.size(), me = world.rank();
        const size_t count = (size_t{9} << 20) + 12'345;
        auto buffer = world.allocate_shared(count * 4, Category::kGradients, nullptr);
        auto* data = static_cast<float*>(buffer->data());
        const auto value = [](int rank, size_t index) {
          return static_cast<float>((index * 7 + static_cast<size_t>(rank) * 13) % 1024);
        };
        for (size_t index = 0; index < count; ++index) data[index] = value(me, index);
        std::vector<Shard> shards;
        for (int rank = 0; rank < ranks; ++rank) {
          const size_t begin = count * static_cast<size_t>(rank) / static_cast<size_t>(ranks);
          const size_t end = count * static_cast<size_t>(rank + 1) / static_cast<size_t>(ranks);
          shards.push_back({begin, end - begin});
        }
        const Shard own = shards[static_cast<size_t>(me)];
        std::vector<float> part(own.count);
        world.reduce_scatter(data, count, DType::kFloat32, shards, part.data(), DType::kFloat32,
                             false);
        world.all_reduce(data, count, DType::kFloat32, ReduceOp::kSum);
        // Whole numbers below 2^24: the sums are exact in any order.
        size_t wrong = 0;
        for (size_t index = 0; index < count; ++index) {
          float sum = 0;
          for (int rank = 0; rank < ranks; ++rank) sum += value(rank, index);
          wrong += data[index] != sum;
        }
        for (size_t index = 0; index < own.count; ++index)
          wrong += part[index] != data[own.offset + index];
        CHECK_MESSAGE(wrong == 0, std::to_string(wrong) + " wrong sums");
      },
      60'000);
}

// A size is summed by one lane and by all of them in turn, until it is known which is faster; who
// is not member 0 does not choose. Whatever is chosen, the bits are the same.
void test_lanes(const std::vector<int>& host_of) {
  play(
      host_of,
      [&](Communicator& world) {
        const size_t count = 150'001;
        const auto value = [](int rank, size_t index) {
          return 1.0f / static_cast<float>(1 + (index + static_cast<size_t>(rank) * 37) % 997);
        };
        std::vector<float> data(count), first;
        for (int call = 0; call < 10; ++call) {
          for (size_t index = 0; index < count; ++index) data[index] = value(world.rank(), index);
          world.all_reduce(data.data(), count, DType::kFloat32, ReduceOp::kSum);
          if (call == 0) first = data;
          CHECK(data == first);
        }
      },
      60'000);
}

// One window, a few, and more than are on their way at once: what an element is summed to does not
// depend on how many are summed with it.
void test_sizes(const std::vector<int>& host_of) {
  play(
      host_of,
      [&](Communicator& world) {
        std::vector<float> least;
        for (const size_t count : {size_t{60'000}, size_t{400'003}, size_t{700'001}}) {
          std::vector<float> data(count);
          for (size_t index = 0; index < count; ++index)
            data[index] = 1.0f / static_cast<float>(
                                     1 + (index + static_cast<size_t>(world.rank()) * 37) % 997);
          world.all_reduce(data.data(), count, DType::kFloat32, ReduceOp::kSum);
          if (least.empty()) least = data;
          // The values repeat.
          size_t wrong = 0;
          for (size_t index = 0; index < count; ++index) wrong += data[index] != least[index % 997];
          CHECK_MESSAGE(wrong == 0, std::to_string(wrong) + " sums differ");
        }
      },
      60'000);
}

void test_lane_choice() {
  LaneChoice choice({4, 1});
  // How long a call takes: small ones are faster through one lane.
  const auto nanoseconds = [](size_t bytes, int lanes) -> uint64_t {
    return 1000 * static_cast<uint64_t>(lanes) + bytes / static_cast<size_t>(lanes);
  };
  std::map<std::pair<size_t, int>, int> uses;
  for (int call = 0; call < 20; ++call)
    for (const size_t bytes : {size_t{1} << 10, size_t{1} << 20}) {
      const int lanes = choice.next(bytes);
      ++uses[{bytes, lanes}];
      // The first call of each is much slower than it will be.
      choice.took(bytes, lanes, nanoseconds(bytes, lanes) + (call < 2 ? 1'000'000'000 : 0));
    }
  CHECK(choice.next(1 << 10) == 1 && choice.next((1 << 10) + 9) == 1);
  CHECK(choice.next(1 << 20) == 4 && choice.next((1 << 21) - 1) == 4);
  // Each was tried four times, and then the faster one stayed.
  CHECK((uses[{1 << 10, 4}] == 4 && uses[{1 << 10, 1}] == 16));
  CHECK((uses[{1 << 20, 4}] == 16 && uses[{1 << 20, 1}] == 4));
  LaneChoice fixed({2});
  CHECK(fixed.next(1) == 2);
  for (int call = 0; call < 10; ++call) fixed.took(1, 2, 5);
  CHECK(fixed.next(1) == 2);
}

// The part of a group that lies on one machine is shared memory alone, and errors there name ranks
// by their numbers in the run.
void test_numbers() {
  play(
      {0, 1, 1, 0},
      [](Communicator& world) {
        auto part = world.split(world.rank() % 3 == 0 ? 0 : 1, 0);
        int32_t one = 1;
        part->all_reduce(&one, 1, DType::kInt32, ReduceOp::kSum);
        CHECK(one == 2);
        if (world.rank() == 2) return;
        if (world.rank() != 1) return;
        const std::string error = thrown_by([&] { part->barrier(); });
        CHECK_MESSAGE(contains(error, "COMM_PEER_LEFT rank 2"), error);
      },
      5'000);
}

void test_second_training() {
  std::shared_ptr<HostsRun> runs[2];
  for (int rank = 0; rank < 2; ++rank)
    runs[rank] = open_inprocess_hosts("two trainings", rank, {0, 1});
  test_leaving_the_first([&](int rank) { return make_hosts_group(runs[rank], 5'000); });
}

// Who waits last finds two that have left, the first of them over the other's end.
void test_cause() {
  std::atomic<bool> has_left{false};
  play(
      {0, 1, 2},
      [&](Communicator& world) {
        if (world.rank() == 1) return world.leave("the data set ended early");
        while (world.rank() == 2 && !has_left.load()) std::this_thread::yield();
        const std::string error = thrown_by([&] { world.barrier(); });
        CHECK_MESSAGE(
            contains(error, "COMM_PEER_LEFT rank 1") && contains(error, "the data set ended early"),
            error);
        if (world.rank() == 2) return;
        world.leave("its process has ended");
        has_left.store(true);
      },
      5'000);
}

}  // namespace

int main() {
  // A rank a machine; two machines, as launchers number ranks; ranks dealt out; unequal machines.
  const auto suite = [](const std::vector<int>& pattern, std::initializer_list<int> sizes) {
    run_suite(stage_of(pattern), sizes);
    test_leave(stage_of(pattern));
  };
  suite({0, 1, 2, 3, 4}, {2, 4});
  suite({0, 0, 1, 1, 1}, {3, 5});
  suite({0, 1, 0, 1, 2}, {4});
  suite({0, 0, 0, 1, 2}, {5});
  test_large({0, 1});
  test_large({0, 0, 1, 1, 1});
  test_large({0, 1, 1, 2});
  test_lanes({0, 0, 1, 1});
  test_lanes({0, 0, 1, 1, 1, 2, 2});
  test_sizes({0, 1});
  test_sizes({0, 0, 1, 1});
  test_sizes({0, 1, 2});
  test_lane_choice();
  test_numbers();
  test_cause();
  test_second_training();
  return dsjs::testing::summary();
}
