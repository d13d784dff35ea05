// The communicator over ranks that are threads: every result is compared, bit for bit, with a plain
// loop over all ranks' inputs in rank order.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "comm/backends.h"
#include "comm/channel.h"
#include "comm/run_control.h"
#include "core/half.h"
#include "core/testing.h"

using namespace dsjs;

namespace {

using Rank = std::function<void(Communicator&)>;

std::string fresh_key() {
  static std::atomic<int> counter{0};
  return "test " + std::to_string(counter.fetch_add(1));
}

// Runs one thread a rank; an exception that `body` lets out fails the test.
void run_ranks(int ranks, const Rank& body, double hang_timeout_ms = 60'000) {
  const std::string key = fresh_key();
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < ranks; ++rank)
    communicators.push_back(make_inprocess(key, rank, ranks, hang_timeout_ms));
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

// What `body` throws on a rank: "CODE message".
std::string thrown_by(const std::function<void()>& body) {
  try {
    body();
  } catch (const EngineError& error) {
    return error.code() + " " + error.what();
  }
  return "nothing";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---------------------------------------------------------------- one element at a time

double read(const void* array, size_t index, DType type) {
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

void write(void* array, size_t index, DType type, double value) {
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
double add(double a, double b, DType type) {
  if (type == DType::kFloat64 || type == DType::kInt32) return a + b;
  return static_cast<float>(a) + static_cast<float>(b);
}

double reduced(const std::vector<std::vector<char>>& inputs, size_t index, DType type,
               ReduceOp op) {
  double result = read(inputs[0].data(), index, type);
  for (size_t rank = 1; rank < inputs.size(); ++rank) {
    const double value = read(inputs[rank].data(), index, type);
    if (op == ReduceOp::kSum)
      result = add(result, value, type);
    else if (op == ReduceOp::kMax)
      result = std::max(result, value);
    else
      result = std::min(result, value);
  }
  return result;
}

std::vector<char> random_array(size_t count, DType type, uint32_t seed) {
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
Placed place(Communicator& communicator, const std::vector<char>& content, bool shared,
             size_t offset) {
  const size_t bytes = content.size() + offset;
  auto buffer = shared ? communicator.allocate_shared(bytes, Category::kGradients, nullptr)
                       : allocate_private(bytes, Category::kGradients, nullptr);
  char* data = static_cast<char*>(buffer->data()) + offset;
  if (!content.empty()) std::memcpy(data, content.data(), content.size());
  return {std::move(buffer), data};
}

// Uneven shards that cover most of `count` elements, some of them empty.
std::vector<Shard> random_shards(size_t count, int ranks, uint32_t seed) {
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
size_t some_size(std::mt19937& generator, DType type) {
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

void test_all_reduce(int ranks) {
  std::mt19937 generator(static_cast<uint32_t>(ranks));
  run_ranks(ranks, [&, plan = generator()](Communicator& communicator) {
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
        write(expected.data(), index, type, reduced(inputs, index, type, op));
      CHECK_MESSAGE(count == 0 || std::memcmp(own.data, expected.data(), expected.size()) == 0,
                    std::string(dtype_name(type)) + " x " + std::to_string(count) + ", placing " +
                        std::to_string(placing));
    }
  });
}

void test_reduce_scatter(int ranks) {
  run_ranks(ranks, [&](Communicator& communicator) {
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
        double sum = reduced(inputs, own.offset + index, type, ReduceOp::kSum);
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

void test_all_gather_and_broadcast(int ranks) {
  run_ranks(ranks, [&](Communicator& communicator) {
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

void test_all_to_all_and_messages(int ranks) {
  run_ranks(ranks, [&](Communicator& communicator) {
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

void test_split() {
  run_ranks(4, [](Communicator& world) {
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
void test_two_at_once() {
  run_ranks(2, [](Communicator& world) {
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

void test_mismatch() {
  run_ranks(3, [](Communicator& world) {
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
  run_ranks(2, [](Communicator& world) {  // sizes on both sides of the small limit
    std::vector<float> data(100'000);
    const size_t count = world.rank() == 0 ? 100'000 : 10;
    const std::string error =
        thrown_by([&] { world.all_reduce(data.data(), count, DType::kFloat32, ReduceOp::kSum); });
    CHECK_MESSAGE(contains(error, "100000 x float32") && contains(error, "10 x float32"), error);
  });
  run_ranks(2, [](Communicator& world) {  // a message against a collective
    char byte = 0;
    const std::string error = thrown_by([&] {
      if (world.rank() == 0)
        world.recv(&byte, 1, 1);
      else
        world.barrier();
    });
    CHECK_MESSAGE(contains(error, "COMM_MISMATCH") || contains(error, "COMM_PEER_LEFT"), error);
  });
  run_ranks(2, [](Communicator& world) {  // both send, both receive, sizes that differ
    char bytes[4] = {};
    const std::string error = thrown_by([&] { world.recv(bytes, 4, 1 - world.rank()); });
    CHECK_MESSAGE(contains(error, "COMM_MISMATCH") || contains(error, "COMM_PEER_LEFT"), error);
  });
  run_ranks(2, [](Communicator& world) {
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

void test_absent() {
  run_ranks(
      2,
      [](Communicator& world) {
        world.barrier();
        if (world.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(400));
        const std::string error = thrown_by([&] { world.barrier(); });
        CHECK_MESSAGE(contains(error, "COMM_HANG rank 1") && contains(error, "barrier (call 1)"),
                      error);
      },
      150);
  run_ranks(3, [](Communicator& world) {
    if (world.rank() == 1) return world.leave("the data set ended early");
    const std::string error = thrown_by([&] { world.barrier(); });
    CHECK_MESSAGE(
        contains(error, "COMM_PEER_LEFT rank 1") && contains(error, "the data set ended early"),
        error);
  });
  run_ranks(2, [](Communicator& world) {  // disposed without a word
    if (world.rank() == 1) return;
    const std::string error = thrown_by([&] { world.barrier(); });
    CHECK_MESSAGE(contains(error, "COMM_PEER_LEFT rank 1"), error);
  });
}

void test_arena() {
  run_ranks(1, [](Communicator& world) {
    auto account = std::make_shared<MemoryAccount>();
    auto a = world.allocate_shared(3'000'000, Category::kGradients, account);
    auto b = world.allocate_shared(100, Category::kMaster, account);
    CHECK(account->current(Category::kGradients) == 3'000'000 && account->total() == 3'000'100);
    CHECK(a->shared() && reinterpret_cast<uintptr_t>(a->data()) % (2 << 20) == 0);
    std::memset(a->data(), 7, a->bytes());
    const size_t offset = a->arena_offset();
    a.reset();
    CHECK(account->current(Category::kGradients) == 0);
    auto c = world.allocate_shared(2'500'000, Category::kGradients, account);
    CHECK(c->arena_offset() == offset);  // reused, and zero again
    bool zero = true;
    for (size_t index = 0; index < c->bytes(); ++index)
      zero &= static_cast<char*>(c->data())[index] == 0;
    CHECK(zero);
    CHECK_THROWS_CODE(world.allocate_shared(size_t{1} << 50, Category::kGradients, account),
                      "OUT_OF_MEMORY");
    CHECK(account->current(Category::kGradients) == 2'500'000);
  });
}

// A rank's engine takes memory from the JavaScript thread and from its comm thread: neither may cut
// off what the other has just added to the arena.
void test_arena_grows_from_many_threads() {
  run_ranks(1, [](Communicator& world) {
    std::vector<std::thread> threads;
    for (char mark = 1; mark <= 3; ++mark)
      threads.emplace_back([&world, mark] {
        std::vector<std::shared_ptr<Buffer>> taken;
        const std::string error = thrown_by([&] {
          for (int round = 0; round < 2000; ++round) {
            taken.push_back(world.allocate_shared(4096, Category::kGradients, nullptr));
            std::memset(taken.back()->data(), mark, 4096);
          }
        });
        CHECK_MESSAGE(error == "nothing", error);
        bool kept = true;
        for (const auto& buffer : taken) kept &= static_cast<char*>(buffer->data())[4095] == mark;
        CHECK(kept);
      });
    for (std::thread& thread : threads) thread.join();
  });
}

// A rank that leaves at once after a call must not take back what slower ranks still read.
void test_leaving_at_once() {
  constexpr size_t kPart = 30'000;
  for (int round = 0; round < 20; ++round)
    run_ranks(4, [&](Communicator& communicator) {
      std::vector<uint8_t> data(4 * kPart, 0);
      std::vector<Shard> shards;
      for (size_t rank = 0; rank < 4; ++rank) shards.push_back({rank * kPart, kPart});
      const int me = communicator.rank();
      std::memset(data.data() + static_cast<size_t>(me) * kPart, 1 + me, kPart);
      communicator.all_gather(data.data(), data.size(), DType::kUint8, shards);
      communicator.leave("done");
      if (me % 2 == 0) return;  // gone before the others have looked
      size_t wrong = 0;
      for (size_t index = 0; index < data.size(); ++index)
        wrong += data[index] != 1 + index / kPart;
      CHECK(wrong == 0);
    });
}

// ... and where the slow rank takes longer than closing waits, its memory stays: rank 0 is gone,
// and another communicator has taken memory in its place, when rank 1 looks.
void test_leaving_before_a_slow_reader() {
  constexpr size_t kLarge = 4096;
  const auto world = World::inprocess(fresh_key(), 2);
  const auto join = [&](int rank) {
    return std::make_unique<Channel>(world, world->join(rank), std::vector<int>{0, 1}, rank, 5'000);
  };
  auto owner = join(0), reader = join(1);
  const auto call = [&](Channel& channel) {
    channel.begin(Operation::kBarrier, DType::kUint8, 0, 0, -1);
    channel.open_large(kLarge);
    std::memset(channel.small_half(channel.member()), 1, Channel::kSmallBytes);
    std::memset(channel.large(channel.member()), 2, kLarge);
    channel.publish();
  };
  call(*owner);
  call(*reader);
  owner->complete();
  const char *small = reader->small_half(0), *large = reader->large(0);
  owner.reset();
  const auto taken = world->arena(0).allocate(size_t{1} << 20, Category::kMaster, nullptr);
  std::memset(taken->data(), 3, taken->bytes());
  CHECK(std::count(small, small + Channel::kSmallBytes, 1) == Channel::kSmallBytes);
  CHECK(std::count(large, large + kLarge, 2) == kLarge);
}

// A member that cannot have its memory: the split fails on it and on its group, nobody waits, and
// the communicator goes on.
#if defined(__linux__)
void test_split_without_memory() {
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  run_ranks(
      3,
      [&](Communicator& world) {
        const int me = world.rank();
        // Rank 0 and 2 have a hole in their arenas, rank 1 would have to let its file grow.
        std::shared_ptr<Buffer> behind;
        if (me != 1) {
          auto hole = world.allocate_shared(size_t{1} << 20, Category::kMaster, nullptr);
          behind = world.allocate_shared(1, Category::kMaster, nullptr);
        }
        world.barrier();
        if (me == 0) {
          const rlimit none{4096, before.rlim_max};
          setrlimit(RLIMIT_FSIZE, &none);
        }
        world.barrier();
        const std::string error = thrown_by([&] { world.split(me == 2 ? 2 : 0, 0); });
        world.barrier();
        if (me == 0) setrlimit(RLIMIT_FSIZE, &before);
        world.barrier();
        if (me == 0) CHECK_MESSAGE(contains(error, "COMM_PEER_LEFT rank 1 could not"), error);
        if (me == 1) CHECK_MESSAGE(contains(error, "grow shared memory"), error);
        if (me == 2) CHECK_MESSAGE(error == "nothing", error);
        auto again = world.split(0, me);
        again->barrier();
      },
      5'000);
}
#endif

// The account holds a group's staging exactly as long as the group.
void test_charge() {
  run_ranks(2, [](Communicator& world) {
    const auto account = std::make_shared<MemoryAccount>();
    auto own = world.split(0, world.rank());
    own->charge(account);
    const size_t small = account->current(Category::kCommunication);
    CHECK(small >= 2 * Channel::kSmallBytes);
    std::vector<float> data(Channel::kSmallBytes);
    for (int call = 0; call < 2; ++call)
      own->all_reduce(data.data(), data.size(), DType::kFloat32, ReduceOp::kSum);
    CHECK(account->current(Category::kCommunication) == small + 3 * 512 * 1024);
    own.reset();
    CHECK(account->total() == 0);
  });
}

void test_interrupt() {
  run_ranks(
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

// The second communicator of a process that has disposed of its first one: nothing of the first is
// taken for an answer, and memory that outlived it is not handed out again.
void test_a_run_is_joined_again() {
  const RunFds fds = create_run_fds(2);
  const auto rank = [&](int me) {
    const auto join = [&] { return make_shm(me, fds.control_fd, fds.arena_fds, 60'000); };
    auto first = join();
    auto kept = first->allocate_shared(5000, Category::kMaster, nullptr);
    std::memset(kept->data(), 7, kept->bytes());
    for (int round = 0; round < 3; ++round) first->barrier();
    first.reset();
    for (int round = 0; round < 20; ++round) {
      auto again = join();
      if (me == round % 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      int32_t value = me + round;
      again->all_reduce(&value, 1, DType::kInt32, ReduceOp::kSum);
      CHECK(value == 2 * round + 1);
      auto fresh = again->allocate_shared(5000, Category::kMaster, nullptr);
      CHECK(static_cast<char*>(fresh->data())[0] == 0 && static_cast<char*>(kept->data())[0] == 7);
    }
  };
  std::thread other([&] { CHECK_MESSAGE(thrown_by([&] { rank(1); }) == "nothing", "rank 1"); });
  const std::string error = thrown_by([&] { rank(0); });
  CHECK_MESSAGE(error == "nothing", error);
  other.join();
  close(fds.control_fd);
  for (int fd : fds.arena_fds) close(fd);
}

}  // namespace

int main() {
  for (int ranks : {1, 2, 3, 5}) {
    test_all_reduce(ranks);
    test_reduce_scatter(ranks);
    test_all_gather_and_broadcast(ranks);
    if (ranks != 3 && ranks != 5) test_all_to_all_and_messages(ranks);
  }
  test_all_to_all_and_messages(4);
  test_split();
  test_two_at_once();
  test_mismatch();
  test_absent();
  test_arena();
  test_arena_grows_from_many_threads();
  test_leaving_at_once();
  test_leaving_before_a_slow_reader();
#if defined(__linux__)
  test_split_without_memory();
#endif
  test_charge();
  test_interrupt();
  test_a_run_is_joined_again();
  return dsjs::testing::summary();
}
