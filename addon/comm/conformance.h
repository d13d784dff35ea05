// The suite that every backend of the communicator passes: each result is compared, bit for bit,
// with a plain loop over all ranks' inputs. Test programs include this, once.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/channel.h"
#include "comm/communicator.h"
#include "core/half.h"
#include "core/testing.h"

namespace dsjs::conformance {

using Rank = std::function<void(Communicator&)>;

// Where the suite is played.
struct Stage {
  // Runs `body` on every one of so many ranks that this process plays; an exception that it lets
  // out fails the test.
  std::function<void(int ranks, const Rank& body, double hang_timeout_ms)> play;
  // The machine of each rank.
  std::function<std::vector<int>(int ranks)> host_of;

  void run(int ranks, const Rank& body, double hang_timeout_ms = 60'000) const {
    play(ranks, body, hang_timeout_ms);
  }
};

// What `body` throws on a rank: "CODE message".
inline std::string thrown_by(const std::function<void()>& body) {
  try {
    body();
  } catch (const EngineError& error) {
    return error.code() + " " + error.what();
  }
  return "nothing";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---------------------------------------------------------------- one element at a time

inline double read(const void* array, size_t index, DType type) {
  switch (type) {
    case DType::kFloat32:
      return static_cast<const float*>(array)[index];
    case DType::kFloat64:
      return static_cast<const double*>(array)[index];
    case DType::kInt32:
      return static_cast<const int32_t*>(array)[index];
    case DType::kFloat16:
      return fp16_to_float(static_cast<const uint16_t*>(array)[index]);
    default:
      return bf16_to_float(static_cast<const uint16_t*>(array)[index]);
  }
}

inline void write(void* array, size_t index, DType type, double value) {
  switch (type) {
    case DType::kFloat32:
      static_cast<float*>(array)[index] = static_cast<float>(value);
      break;
    case DType::kFloat64:
      static_cast<double*>(array)[index] = value;
      break;
    case DType::kInt32:
      static_cast<int32_t*>(array)[index] = static_cast<int32_t>(value);
      break;
    case DType::kFloat16:
      static_cast<uint16_t*>(array)[index] = float_to_fp16(static_cast<float>(value));
      break;
    default:
      static_cast<uint16_t*>(array)[index] = float_to_bf16(static_cast<float>(value));
  }
}

// The sum in the type that sums are made in: fp32 but for float64 (int32 sums here stay exact).
inline double add(double a, double b, DType type) {
  if (type == DType::kFloat64 || type == DType::kInt32) return a + b;
  return static_cast<float>(a) + static_cast<float>(b);
}

inline double combine(double a, double b, DType type, ReduceOp op) {
  if (op == ReduceOp::kSum) return add(a, b, type);
  return op == ReduceOp::kMax ? std::max(a, b) : std::min(a, b);
}

// In rank order inside each host, rounded to the type, then in the order of the hosts' first ranks.
inline double reduced(const std::vector<std::vector<char>>& inputs, const std::vector<int>& host_of,
                      size_t index, DType type, ReduceOp op) {
  std::vector<int> order;
  std::map<int, double> sums;
  for (size_t rank = 0; rank < inputs.size(); ++rank) {
    const int host = host_of[rank];
    const double value = read(inputs[rank].data(), index, type);
    const auto [sum, first] = sums.try_emplace(host, value);
    if (first)
      order.push_back(host);
    else
      sum->second = combine(sum->second, value, type, op);
  }
  if (order.size() == 1) return sums[order[0]];
  double result = 0;
  for (size_t place = 0; place < order.size(); ++place) {
    char rounded[8];
    write(rounded, 0, type, sums[order[place]]);
    const double sum = read(rounded, 0, type);
    result = place == 0 ? sum : combine(result, sum, type, op);
  }
  return result;
}

inline std::vector<char> random_array(size_t count, DType type, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, 100);
  std::vector<char> array(count * size_of(type));
  for (size_t index = 0; index < count; ++index)
    write(array.data(), index, type, normal(generator));
  return array;
}

// A rank's copy of an array, in memory that peers read in place or in memory that is staged.
struct Placed {
  std::shared_ptr<Buffer> buffer;
  char* data;
};
inline Placed place(Communicator& communicator, const std::vector<char>& content, bool shared,
                    size_t offset) {
  const size_t bytes = content.size() + offset;
  auto buffer = shared ? communicator.allocate_shared(bytes, Category::kGradients, nullptr)
                       : allocate_private(bytes, Category::kGradients, nullptr);
  char* data = static_cast<char*>(buffer->data()) + offset;
  if (!content.empty()) std::memcpy(data, content.data(), content.size());
  return {std::move(buffer), data};
}

// Uneven shards that cover most of `count` elements, some of them empty.
inline std::vector<Shard> random_shards(size_t count, int ranks, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<Shard> shards;
  size_t offset = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const size_t left = count - offset;
    const size_t length = rank + 1 == ranks      ? left
                          : generator() % 4 == 0 ? 0
                                                 : generator() % (left + 1);
    shards.push_back({offset, length});
    offset += length;
  }
  return shards;
}

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64,
                            DType::kInt32};

// Sizes around what changes the way: nothing, one, the small limit, a chunk, several chunks.
inline size_t some_size(std::mt19937& generator, DType type) {
  const size_t element = size_of(type);
  const size_t sizes[] = {0,
                          1,
                          7,
                          1024,
                          Channel::kSmallBytes / element,
                          Channel::kSmallBytes / element + 1,
                          524288 / element,
                          524288 / element + 3,
                          generator() % 400'000};
  return sizes[generator() % std::size(sizes)];
}

inline void test_all_reduce(const Stage& stage, int ranks) {
  const std::vector<int> host_of = stage.host_of(ranks);
  std::mt19937 generator(static_cast<uint32_t>(ranks));
  stage.run(ranks, [&, plan = generator()](Communicator& communicator) {
    std::mt19937 same(plan);  // all ranks draw alike
    for (int round = 0; round < 40; ++round) {
      const DType type = kTypes[same() % std::size(kTypes)];
      const ReduceOp op = static_cast<ReduceOp>(same() % 3);
      const size_t count = some_size(same, type);
      const uint32_t seed = static_cast<uint32_t>(same());
      // 0: all private, 1: all shared at one offset, 2: shared at different offsets, 3: mixed.
      const int placing = static_cast<int>(same() % 4);
      std::vector<std::vector<char>> inputs;
      for (int rank = 0; rank < ranks; ++rank)
        inputs.push_back(random_array(count, type, seed + static_cast<uint32_t>(rank)));
      const int me = communicator.rank();
      const bool shared = placing == 1 || placing == 2 || (placing == 3 && me % 2 == 0);
      const size_t offset = placing == 2 ? 64 * static_cast<size_t>(me) : 0;
      const Placed own = place(communicator, inputs[static_cast<size_t>(me)], shared, offset);
      communicator.all_reduce(own.data, count, type, op);
      std::vector<char> expected(count * size_of(type));
      for (size_t index = 0; index < count; ++index)
        write(expected.data(), index, type, reduced(inputs, host_of, index, type, op));
      CHECK_MESSAGE(count == 0 || std::memcmp(own.data, expected.data(), expected.size()) == 0,
                    std::string(dtype_name(type)) + " x " + std::to_string(count) + ", placing " +
                        std::to_string(placing));
    }
  });
}

inline void test_reduce_scatter(const Stage& stage, int ranks) {
  const std::vector<int> host_of = stage.host_of(ranks);
  stage.run(ranks, [&](Communicator& communicator) {
    std::mt19937 same(static_cast<uint32_t>(100 + ranks));
    for (int round = 0; round < 30; ++round) {
      const DType type = kTypes[same() % 4];
      const size_t count = some_size(same, type);
      const uint32_t seed = static_cast<uint32_t>(same());
      const bool shared = same() % 2 == 0, accumulate = same() % 2 == 0;
      const DType target_type = same() % 2 == 0 ? type : DType::kFloat32;
      const auto shards = random_shards(count, ranks, seed);
      std::vector<std::vector<char>> inputs;
      for (int rank = 0; rank < ranks; ++rank)
        inputs.push_back(random_array(count, type, seed + static_cast<uint32_t>(rank)));
      const int me = communicator.rank();
      const Shard own = shards[static_cast<size_t>(me)];
      const Placed bucket = place(communicator, inputs[static_cast<size_t>(me)], shared, 0);
      std::vector<char> target = random_array(own.count, target_type, seed + 77);
      const std::vector<char> before = target;
      communicator.reduce_scatter(bucket.data, count, type, shards, target.data(), target_type,
                                  accumulate);
      std::vector<char> expected(target.size());
      for (size_t index = 0; index < own.count; ++index) {
        double sum = reduced(inputs, host_of, own.offset + index, type, ReduceOp::kSum);
        // On its way to fp32 a sum is rounded to the narrower of both types.
        const bool narrowed = type != DType::kFloat32 && target_type == DType::kFloat32;
        if (narrowed) {
          char rounded[4];
          const DType narrow = type == DType::kFloat64 ? DType::kFloat32 : type;
          write(rounded, 0, narrow, sum);
          sum = read(rounded, 0, narrow);
        }
        if (accumulate)
          sum = add(sum, read(before.data(), index, target_type), narrowed ? target_type : type);
        write(expected.data(), index, target_type, sum);
      }
      CHECK_MESSAGE(target == expected, std::string(dtype_name(type)) + " to " +
                                            dtype_name(target_type) + " x " +
                                            std::to_string(count));
    }
  });
}

inline void test_all_gather_and_broadcast(const Stage& stage, int ranks) {
  stage.run(ranks, [&](Communicator& communicator) {
    std::mt19937 same(static_cast<uint32_t>(200 + ranks));
    const int me = communicator.rank();
    for (int round = 0; round < 20; ++round) {
      const DType type = kTypes[same() % std::size(kTypes)];
      const size_t count = some_size(same, type), element = size_of(type);
      const uint32_t seed = static_cast<uint32_t>(same());
      const bool shared = same() % 2 == 0;
      const int root = static_cast<int>(same() % static_cast<uint32_t>(ranks));
      const auto shards = random_shards(count, ranks, seed);
      // Rank r's array is valid in its shard only; gathered, every array is the whole of rank 0's.
      const std::vector<char> whole = random_array(count, type, seed);
      std::vector<char> mine(whole.size(), static_cast<char>(0x55));
      const Shard own = shards[static_cast<size_t>(me)];
      if (own.count > 0)
        std::memcpy(mine.data() + own.offset * element, whole.data() + own.offset * element,
                    own.count * element);
      const Placed gathered = place(communicator, mine, shared, 0);
      communicator.all_gather(gathered.data, count, type, shards);
      CHECK(count == 0 || std::memcmp(gathered.data, whole.data(), whole.size()) == 0);

      const Placed sent =
          place(communicator, me == root ? whole : std::vector<char>(whole.size()), me % 2 == 0, 0);
      communicator.broadcast(sent.data, whole.size(), root);
      CHECK(count == 0 || std::memcmp(sent.data, whole.data(), whole.size()) == 0);
    }
  });
}

inline void test_all_to_all_and_messages(const Stage& stage, int ranks) {
  stage.run(ranks, [&](Communicator& communicator) {
    const int me = communicator.rank();
    for (const size_t block : {size_t{0}, size_t{5}, size_t{4096}, size_t{300'001}}) {
      for (const bool shared : {false, true}) {
        const auto value = [&](int from, int to, size_t index) {
          return static_cast<char>(from * 31 + to * 7 + static_cast<int>(index % 101));
        };
        std::vector<char> input(block * static_cast<size_t>(ranks));
        for (int to = 0; to < ranks; ++to)
          for (size_t index = 0; index < block; ++index)
            input[static_cast<size_t>(to) * block + index] = value(me, to, index);
        const Placed lent = place(communicator, input, shared, 0);
        std::vector<char> output(input.size());
        communicator.all_to_all(lent.data, output.data(), block);
        bool equal = true;
        for (int from = 0; from < ranks; ++from)
          for (size_t index = 0; index < block; ++index)
            equal &= output[static_cast<size_t>(from) * block + index] == value(from, me, index);
        CHECK(equal);

        // A ring: even ranks send first.
        if (ranks < 2) continue;
        const int next = (me + 1) % ranks, previous = (me + ranks - 1) % ranks;
        std::vector<char> received(input.size());
        if (me % 2 == 0) communicator.send(lent.data, input.size(), next);
        communicator.recv(received.data(), received.size(), previous);
        if (me % 2 != 0) communicator.send(lent.data, input.size(), next);
        equal = true;
        for (int to = 0; to < ranks; ++to)
          for (size_t index = 0; index < block; ++index)
            equal &=
                received[static_cast<size_t>(to) * block + index] == value(previous, to, index);
        CHECK(equal);
      }
    }
  });
}

inline void test_split(const Stage& stage) {
  stage.run(4, [](Communicator& world) {
    const int me = world.rank();
    // Odd and even ranks, in reverse order; then each pair into single ranks; rank 3 sits out once.
    auto half = world.split(me % 2, -me);
    CHECK(half->size() == 2 && half->rank() == (me < 2 ? 1 : 0));
    double sum = me;
    half->all_reduce(&sum, 1, DType::kFloat64, ReduceOp::kSum);
    CHECK(sum == (me % 2 == 0 ? 2 : 4));
    auto single = half->split(half->rank(), 0);
    CHECK(single->size() == 1 && single->rank() == 0);
    single->all_reduce(&sum, 1, DType::kFloat64, ReduceOp::kSum);
    CHECK(sum == (me % 2 == 0 ? 2 : 4));
    auto three = world.split(me == 3 ? -1 : 0, 0);
    CHECK((three == nullptr) == (me == 3));
    if (three) {
      int32_t count = 1;
      three->all_reduce(&count, 1, DType::kInt32, ReduceOp::kSum);
      CHECK(count == 3);
    }
    // Channels come back: far more groups than a run has at once.
    for (int round = 0; round < 500; ++round) {
      auto group = world.split(me % 2, me);
      group->barrier();
    }
  });
}

// Two communicators of one run used from two threads of each rank at once.
inline void test_two_at_once(const Stage& stage) {
  stage.run(2, [](Communicator& world) {
    auto own = world.split(0, world.rank());
    std::thread other([&] {
      std::vector<float> data(200'000, 1);
      for (int round = 0; round < 20; ++round)
        own->all_reduce(data.data(), data.size(), DType::kFloat32, ReduceOp::kMax);
      CHECK(data[199'999] == 1);
    });
    int32_t total = 0;
    for (int round = 0; round < 500; ++round) {
      int32_t one = 1;
      world.all_reduce(&one, 1, DType::kInt32, ReduceOp::kSum);
      total += one;
    }
    CHECK(total == 1000);
    other.join();
  });
}

inline void test_mismatch(const Stage& stage) {
  stage.run(3, [](Communicator& world) {
    float value[8] = {};
    const std::string error = thrown_by([&] {
      if (world.rank() == 2)
        world.barrier();
      else
        world.all_reduce(value, 8, DType::kFloat32, ReduceOp::kSum);
    });
    CHECK_MESSAGE(contains(error, "COMM_MISMATCH") && contains(error, "rank 0 allReduce") &&
                      contains(error, "8 x float32") && contains(error, "rank 2 barrier"),
                  error);
    // What failed stays failed.
    CHECK(thrown_by([&] { world.barrier(); }) == error);
  });
  stage.run(2, [](Communicator& world) {  // sizes on both sides of the small limit
    std::vector<float> data(100'000);
    const size_t count = world.rank() == 0 ? 100'000 : 10;
    const std::string error =
        thrown_by([&] { world.all_reduce(data.data(), count, DType::kFloat32, ReduceOp::kSum); });
    CHECK_MESSAGE(contains(error, "100000 x float32") && contains(error, "10 x float32"), error);
  });
  stage.run(2, [](Communicator& world) {  // a message against a collective
    char byte = 0;
    const std::string error = thrown_by([&] {
      if (world.rank() == 0)
        world.recv(&byte, 1, 1);
      else
        world.barrier();
    });
    CHECK_MESSAGE(contains(error, "COMM_MISMATCH") || contains(error, "COMM_PEER_LEFT"), error);
  });
  stage.run(2, [](Communicator& world) {  // both send, both receive, sizes that differ
    char bytes[4] = {};
    const std::string error = thrown_by([&] { world.recv(bytes, 4, 1 - world.rank()); });
    CHECK_MESSAGE(contains(error, "COMM_MISMATCH") || contains(error, "COMM_PEER_LEFT"), error);
  });
  stage.run(2, [](Communicator& world) {
    char bytes[4] = {};
    const std::string error = thrown_by([&] {
      if (world.rank() == 0)
        world.send(bytes, 4, 1);
      else
        world.recv(bytes, 3, 0);
    });
    CHECK_MESSAGE(contains(error, "sends 4 bytes") && contains(error, "receives 3"), error);
  });
}

inline void test_absent(const Stage& stage) {
  stage.run(
      2,
      [](Communicator& world) {
        world.barrier();
        if (world.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(400));
        const std::string error = thrown_by([&] { world.barrier(); });
        CHECK_MESSAGE(contains(error, "COMM_HANG rank 1") && contains(error, "barrier (call "),
                      error);
      },
      150);
  stage.run(2, [](Communicator& world) {  // disposed without a word
    if (world.rank() == 1) return;
    const std::string error = thrown_by([&] { world.barrier(); });
    CHECK_MESSAGE(contains(error, "COMM_PEER_LEFT rank 1"), error);
  });
}

inline void test_interrupt(const Stage& stage) {
  stage.run(
      2,
      [](Communicator& world) {
        auto own = world.split(0, world.rank());
        if (world.rank() == 1) return world.barrier();
        std::string error;
        std::thread waiting([&] { error = thrown_by([&] { own->barrier(); }); });
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        own->interrupt();
        waiting.join();
        CHECK_MESSAGE(contains(error, "DISPOSED"), error);
        world.barrier();
      },
      5'000);
}

inline void test_leave(const Stage& stage) {
  stage.run(3, [](Communicator& world) {
    if (world.rank() == 1) return world.leave("the data set ended early");
    const std::string error = thrown_by([&] { world.barrier(); });
    CHECK_MESSAGE(
        contains(error, "COMM_PEER_LEFT rank 1") && contains(error, "the data set ended early"),
        error);
  });
}

// One training has ended and another begins: who is slow there has not left it. `join` makes a
// rank's next communicator of a run of two.
inline void test_leaving_the_first(
    const std::function<std::unique_ptr<Communicator>(int rank)>& join) {
  const auto play = [&](int rank) {
    auto first = join(rank);
    first->leave("training ended");
    first.reset();
    auto second = join(rank);
    auto part = second->split(0, rank);
    // Longer than the other waits before it looks around.
    if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    part->barrier();
    second->barrier();
    if (rank == 1) return second->leave("the second ended");
    for (Communicator* other : {part.get(), second.get()}) {
      const std::string error = thrown_by([&] { other->barrier(); });
      CHECK_MESSAGE(contains(error, "COMM_PEER_LEFT rank 1") && contains(error, "the second ended"),
                    error);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&play, rank] {
      const std::string error = thrown_by([&] { play(rank); });
      CHECK_MESSAGE(error == "nothing", error);
    });
  for (std::thread& thread : threads) thread.join();
}

// Everything but `leave`, which ends more than the communicator that it is called on.
inline void run_suite(const Stage& stage, std::initializer_list<int> sizes) {
  for (int ranks : sizes) {
    test_all_reduce(stage, ranks);
    test_reduce_scatter(stage, ranks);
    test_all_gather_and_broadcast(stage, ranks);
    // A ring of an odd number of ranks, each sending before it receives, would wait for itself.
    if (ranks == 1 || ranks % 2 == 0) test_all_to_all_and_messages(stage, ranks);
  }
  test_split(stage);
  test_two_at_once(stage);
  test_mismatch(stage);
  test_absent(stage);
  test_interrupt(stage);
}

}  // namespace dsjs::conformance
