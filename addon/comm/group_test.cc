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
#include "comm/conformance.h"
#include "comm/run_control.h"
#include "core/half.h"
#include "core/testing.h"

using namespace dsjs;
using namespace dsjs::conformance;

namespace {

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

// Parts that begin within pages, one of them empty: every rank sees what each has written into its
// own, and nothing else.
void test_joint_memory() {
  const std::vector<size_t> bytes{20'001, 7, 0, 3'000'000};
  size_t total = 0;
  for (const size_t own : bytes) total += own;
  run_ranks(4, [&](Communicator& world) {
    CHECK(world.shares_memory());
    auto account = std::make_shared<MemoryAccount>();
    auto joint = world.allocate_joint(bytes, Category::kParameters, account);
    const auto me = static_cast<size_t>(world.rank());
    CHECK(joint->joint() && !joint->shared() && joint->bytes() == total);
    CHECK(account->current(Category::kParameters) == bytes[me]);
    char* data = static_cast<char*>(joint->data());
    std::vector<Shard> shards;
    for (size_t begin = 0, rank = 0; rank < 4; begin += bytes[rank++])
      shards.push_back({begin, bytes[rank]});
    for (int round = 1; round <= 3; ++round) {
      std::memset(data + shards[me].offset, round + static_cast<int>(me), bytes[me]);
      world.all_gather_joint(total, DType::kUint8, shards);
      bool right = true;
      for (size_t rank = 0; rank < 4; ++rank)
        for (size_t at = 0; at < bytes[rank]; ++at)
          right &= data[shards[rank].offset + at] == round + static_cast<int>(rank);
      CHECK(right);
      world.barrier();
    }
    joint.reset();
    CHECK(account->total() == 0);
  });
}

// A rank that is done must not take back what slower ranks still read in its part, and gets it back
// once they do not.
void test_joint_memory_outlives_its_owner() {
  constexpr size_t kPart = 1'000'000;
  std::shared_ptr<Buffer> seen;
  const std::string key = fresh_key();
  auto keeper = make_inprocess(key, 0, 2, 60'000);
  std::thread reader([&] {
    seen = keeper->allocate_joint({kPart, kPart}, Category::kMaster, nullptr);
  });
  size_t offset = 0;
  std::unique_ptr<Communicator> owner = make_inprocess(key, 1, 2, 60'000);
  {
    auto own = owner->allocate_joint({kPart, kPart}, Category::kMaster, nullptr);
    std::memset(static_cast<char*>(own->data()) + kPart, 5, kPart);
  }
  reader.join();
  const char* part = static_cast<const char*>(seen->data()) + kPart;
  CHECK(std::count(part, part + kPart, 5) == static_cast<ptrdiff_t>(kPart));
  auto other = owner->allocate_shared(kPart, Category::kMaster, nullptr);
  CHECK(std::count(part, part + kPart, 5) == static_cast<ptrdiff_t>(kPart));
  offset = other->arena_offset();
  other.reset();
  seen.reset();  // this asks for what rank 1 left as well
  CHECK(owner->allocate_shared(kPart, Category::kMaster, nullptr)->arena_offset() < offset);
}

#if defined(__linux__)
void test_joint_memory_that_one_rank_lacks() {
  run_ranks(2, [](Communicator& world) {
    const bool first = world.rank() == 0;
    CHECK_THROWS_CODE(world.allocate_joint({size_t{1} << 50, 100}, Category::kParameters, nullptr),
                      first ? "OUT_OF_MEMORY" : "COMM_PEER_LEFT");
    world.barrier();  // the run goes on
    CHECK_THROWS_CODE(world.allocate_joint({100}, Category::kParameters, nullptr),
                      "INVALID_ARGUMENT");
  });
}
#endif

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

void test_second_training() {
  const std::string key = fresh_key();
  const auto world = World::inprocess(key, 2);  // one run, also while no rank has joined it
  test_leaving_the_first([&](int rank) { return make_inprocess(key, rank, 2, 5'000); });
}

// Why the last communicator was left is what counts of a process that ends after it; of one that
// ends with another open, why it ends.
void test_leaving_for_good() {
  const int fd = ControlPage::create(2);
  ControlPage page(fd, 2);
  close(fd);
  const auto reason = [&] { return std::string(page.rank(0).reason); };
  page.rank(0).joined.store(1);
  page.leave(0, "training ended");
  CHECK(page.has_left(0, 0) && !page.has_left(0, 1) && reason() == "training ended");
  page.rank(0).joined.store(2);
  page.leave(0, "the second ended");
  page.leave(0, "again");
  CHECK(page.has_left(0, 1) && !page.has_left(0, 2) && reason() == "the second ended");
  page.leave_for_good(0, "its process has ended");
  CHECK(page.has_left(0, ControlPage::kBaseChannels - 1) && reason() == "the second ended");
  page.rank(1).joined.store(1);
  page.leave_for_good(1, "process.exit()");
  page.leave_for_good(1, "its process has ended");
  CHECK(page.has_left(1, 0) && std::string(page.rank(1).reason) == "process.exit()");
}

// ... and where the slow rank takes longer than closing waits, its memory stays: rank 0 is gone,
// and another communicator has taken memory in its place, when rank 1 looks.
void test_leaving_before_a_slow_reader() {
  constexpr size_t kLarge = 4096;
  const auto world = World::inprocess(fresh_key(), 2);
  const auto join = [&](int rank) {
    const int index = world->join(rank);
    return std::make_unique<Channel>(world, index, index, std::vector<int>{0, 1}, rank, 5'000);
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
  const Stage stage{run_ranks,
                    [](int ranks) { return std::vector<int>(static_cast<size_t>(ranks)); }};
  run_suite(stage, {1, 2, 3, 4, 5});
  test_leave(stage);
  test_arena();
  test_arena_grows_from_many_threads();
  test_joint_memory();
  test_joint_memory_outlives_its_owner();
#if defined(__linux__)
  test_joint_memory_that_one_rank_lacks();
#endif
  test_leaving_at_once();
  test_leaving_before_a_slow_reader();
  test_second_training();
  test_leaving_for_good();
#if defined(__linux__)
  test_split_without_memory();
#endif
  test_charge();
  test_a_run_is_joined_again();
  return dsjs::testing::summary();
}
