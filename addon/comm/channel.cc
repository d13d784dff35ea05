#include "comm/channel.h"

#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "core/error.h"
#include "core/futex.h"
#include "core/limits.h"

namespace dsjs {
namespace {

// A meeting of running ranks takes a few microseconds; a rank that comes later than this comes
// after a computation, and the waiting thread's core is better given away.
constexpr uint64_t kSpinNs = 20'000;
// Who waits for a member that hears from other machines waits for a network: for so long whoever
// else can run does, but nobody has to be woken.
constexpr uint64_t kYieldNs = 200'000;
// How long a sleeper goes without looking for the dead.
constexpr uint64_t kLookNs = 20'000'000;
// Closing waits so long for peers that still read this rank's staging; mostly they are about to
// end, and the staging can be given back.
constexpr uint64_t kCloseNs = 100'000'000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Counters wrap around.
bool reached(uint32_t value, uint32_t target) { return static_cast<int32_t>(value - target) >= 0; }

constexpr size_t kStagingBytes = 2 * (Channel::kSmallBytes + 2 * Channel::kNoteBytes);

size_t block_bytes(int members) {
  return kStagingBytes + static_cast<size_t>(members) * sizeof(Outbox);
}

}  // namespace

// What a wait is for: `word` of member `peer`, or the phase of every member (peer -1), or of one of
// them alone.
struct Channel::Want {
  int peer;
  const std::atomic<uint32_t>* word;
  std::atomic<uint32_t>* waiters;
  uint32_t target;
  int alone = -1;
};

std::string format_seconds(uint64_t nanoseconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", static_cast<double>(nanoseconds) / 1e9);
  return text;
}

const char* operation_name(Operation operation) {
  constexpr const char* names[] = {"allReduce", "reduceScatter", "allGather",     "allToAll",
                                   "broadcast", "barrier",       "split",         "send",
                                   "recv",      "allocate",      "allGatherJoint"};
  return names[static_cast<int>(operation)];
}

std::string describe(const Descriptor& call) {
  const Operation operation = static_cast<Operation>(call.operation);
  std::string text =
      std::string(operation_name(operation)) + " (call " + std::to_string(call.sequence);
  if (operation == Operation::kAllToAll || operation == Operation::kBroadcast)
    text += ", " + std::to_string(call.count) + " bytes";
  else if (operation != Operation::kBarrier && operation != Operation::kSplit)
    text += ", " + std::to_string(call.count) + " x " + dtype_name(static_cast<DType>(call.type));
  if (operation == Operation::kBroadcast) text += ", root " + std::to_string(call.detail);
  return text + ")";
}

namespace {

bool is_alike(const Descriptor& call, const Descriptor& other) {
  return call.operation == other.operation && call.type == other.type && call.count == other.count;
}

}  // namespace

bool is_same(const Descriptor& call, const Descriptor& other) {
  return is_alike(call, other) && call.detail == other.detail;
}

std::string difference(int rank, const Descriptor& call, int other_rank, const Descriptor& other) {
  if (is_same(call, other)) return "";
  return "ranks called different things: rank " + std::to_string(rank) + " " + describe(call) +
         ", rank " + std::to_string(other_rank) + " " + describe(other) +
         (is_alike(call, other) ? ", with another reduction, root or shards" : "");
}

Channel::Channel(std::shared_ptr<World> world, int index, int base, std::vector<int> ranks,
                 int member, double hang_timeout_ms)
    : world_(std::move(world)),
      index_(index),
      base_(base),
      ranks_(std::move(ranks)),
      member_(member),
      hang_timeout_ms_(hang_timeout_ms) {
  for (int other = 0; other < members(); ++other) {
    slots_.push_back(&world_->control().slot(index, other));
    bases_.push_back(world_->arena(ranks_[other]).base());
  }
  // More ranks than cores: a spinning rank would only keep the awaited one from running.
  spin_ns_ = world_->size() <= machine_cores() ? kSpinNs : 0;
  try {
    open();
  } catch (...) {
    slot(member_).closed.store(1);
    world_->control().give_back_channel(index_);
    throw;
  }
}

void Channel::open() {
  block_ = world_->arena(ranks_[member_])
               .allocate(block_bytes(members()), Category::kCommunication, nullptr);
  Slot& own = slot(member_);
  own.block.store(static_cast<int64_t>(block_->arena_offset()));
  own.staging.store(-1);
  own.opened.store(1);
  futex_wake_all(own.opened);
}

Channel::~Channel() {
  const uint64_t start = monotonic_ns();
  while (is_read() && monotonic_ns() - start < kCloseNs) usleep(100);
  // Also after a failure or `leave`: a slower peer may still read what this rank gave to the last
  // call, and must not find another's data in its place.
  if (is_read()) {
    world_->keep(block_);
    if (large_) world_->keep(large_);
  }
  if (account_)
    account_->remove(Category::kCommunication, block_->bytes() + (large_ ? large_->bytes() : 0));
  slot(member_).closed.store(1);
  world_->control().give_back_channel(index_);
}

bool Channel::is_read() const {
  for (int other = 0; other < members(); ++other) {
    const Slot& peer = slot(other);
    if (other != member_ && peer.completed.load() < sequence_ && peer.closed.load() == 0 &&
        world_->presence(ranks_[other], base_) != World::Presence::kDied)
      return true;
  }
  return false;
}

Outbox& Channel::outbox(int from, int to) const {
  char* block = bases_[from] + slot(from).block.load();
  return reinterpret_cast<Outbox*>(block + kStagingBytes)[to];
}

char* Channel::small_half(int member) const {
  return bases_[member] + slot(member).block.load() + (sequence_ & 1) * kSmallBytes;
}

char* Channel::note(int member) const {
  return bases_[member] + slot(member).block.load() + 2 * kSmallBytes +
         (sequence_ & 1) * 2 * kNoteBytes;
}

void Channel::open_large(size_t bytes) {
  if (large_) return;
  large_ = world_->arena(ranks_[member_]).allocate(bytes, Category::kCommunication, nullptr);
  if (account_) account_->add(Category::kCommunication, bytes);
  slot(member_).staging.store(static_cast<int64_t>(large_->arena_offset()));
}

char* Channel::large(int member) const { return bases_[member] + slot(member).staging.load(); }

void Channel::charge(std::shared_ptr<MemoryAccount> account) {
  account_ = std::move(account);
  account_->add(Category::kCommunication, block_->bytes() + (large_ ? large_->bytes() : 0));
}

const Descriptor& Channel::descriptor(int member) const {
  return slot(member).descriptor[sequence_ & 1];
}

void Channel::begin(Operation operation, DType type, uint64_t count, uint64_t detail,
                    int64_t location) {
  if (failure_) std::rethrow_exception(failure_);
  message_peer_ = -1;
  ++sequence_;
  Slot& own = slot(member_);
  own.descriptor[sequence_ & 1] = {
      sequence_, static_cast<int32_t>(operation), static_cast<int32_t>(type), count, detail,
      location};
  own.begun.store(sequence_);
  check_ended();
}

void Channel::check_ended() {
  if (interrupted_.load()) fail("DISPOSED", "the engine was disposed during " + current(), -1);
  if (auto abort = world_->control().aborted()) fail("COMM_ABORTED", abort->message, -1);
}

void Channel::publish() {
  Slot& own = slot(member_);
  own.phase.store(++phase_);
  if (own.waiters.load() != 0) futex_wake_all(own.phase);
}

void Channel::meet() {
  publish();
  for (int other = 0; other < members(); ++other) {
    Slot& peer = slot(other);
    if (!reached(peer.phase.load(std::memory_order_acquire), phase_))
      wait({-1, &peer.phase, &peer.waiters, phase_});
  }
}

void Channel::follow(int member) {
  publish();
  Slot& peer = slot(member);
  if (!reached(peer.phase.load(std::memory_order_acquire), phase_))
    wait({-1, &peer.phase, &peer.waiters, phase_, member});
}

void Channel::meet_and_compare() {
  meet();
  compare();
}

void Channel::complete() { slot(member_).completed.store(sequence_); }

void Channel::begin_message(Operation operation, int peer, uint64_t bytes) {
  if (failure_) std::rethrow_exception(failure_);
  message_peer_ = peer;
  message_operation_ = operation;
  message_bytes_ = bytes;
  check_ended();
}

void Channel::wait_opened(int peer) {
  Slot& other = slot(peer);
  if (other.opened.load() == 0) wait({peer, &other.opened, &other.waiters, 1});
}

void Channel::wait_outbox(int peer, const std::atomic<uint32_t>& word,
                          std::atomic<uint32_t>& waiters, uint32_t target) {
  if (!reached(word.load(std::memory_order_acquire), target)) wait({peer, &word, &waiters, target});
}

void Channel::wait(const Want& want) {
  const uint64_t start = monotonic_ns();
  uint64_t now = start;
  const auto here = [&] {
    return reached(want.word->load(std::memory_order_acquire), want.target);
  };
  while (!here() && now - start < spin_ns_) {
    for (int turn = 0; turn < 32 && !here(); ++turn) pause_cpu();
    if (here()) break;
    // A peer that publish() woke is often put on this core, where it would wait until this rank
    // falls asleep; then each would wake the other at every call, and no call find both running.
    sched_yield();
    now = monotonic_ns();
  }
  while (want.alone >= 0 && !here() && now - start < kYieldNs) {
    sched_yield();
    now = monotonic_ns();
  }
  while (!here()) {
    const uint32_t value = want.word->load();
    want.waiters->fetch_add(1);
    // Read again after announcing: whoever changes the word from here on sees the waiter.
    if (want.word->load() == value && !reached(value, want.target))
      futex_wait(*want.word, value, kLookNs);
    want.waiters->fetch_sub(1);
    if (here()) break;
    try {
      look_around(want, start);
    } catch (...) {
      waited_ns_ += monotonic_ns() - start;
      throw;
    }
  }
  waited_ns_ += monotonic_ns() - start;
}

bool Channel::arrived(const Want& want, int member) const {
  return want.peer < 0 ? reached(slot(member).phase.load(), phase_)
                       : reached(want.word->load(), want.target);
}

// Why does it take so long? Everything is read before the last look at the awaited word: a peer
// that published and then left has done its part.
void Channel::look_around(const Want& want, uint64_t since_ns) {
  check_ended();
  const uint64_t waited = monotonic_ns() - since_ns;
  for (int other = 0; other < members(); ++other) {
    if (other == member_ || (want.peer >= 0 && other != want.peer)) continue;
    if (want.alone >= 0 && other != want.alone) continue;
    const Slot& peer = slot(other);
    const std::string name = "rank " + std::to_string(number(other));
    const World::Presence presence = world_->presence(ranks_[other], base_);
    const bool closed = peer.closed.load() != 0;
    const uint64_t begun = peer.begun.load();
    const uint64_t receiving = peer.receiving.load();
    const bool has_outboxes = peer.opened.load() != 0;
    const bool sends_to_us =
        has_outboxes && outbox(other, member_).posted.load() != outbox(other, member_).taken.load();
    if (arrived(want, other)) continue;

    if (presence == World::Presence::kLeft)
      fail("COMM_PEER_LEFT",
           name + " has left (" + world_->control().rank(ranks_[other]).reason + ") while " +
               current() + " waited for it",
           other);
    if (presence == World::Presence::kDied)
      fail("COMM_PEER_DIED",
           name + " (process " + std::to_string(world_->control().rank(ranks_[other]).pid.load()) +
               ") has died while " + current() + " waited for it",
           other);
    if (closed)
      fail("COMM_PEER_LEFT",
           name + " has closed its communicator while " + current() + " waited for it", other);

    // A peer that waits for a message between us while we wait for something else never comes.
    const bool we_send = want.peer >= 0 && message_operation_ == Operation::kSend;
    const bool we_receive = want.peer >= 0 && message_operation_ == Operation::kReceive;
    const uint64_t next_message = outbox(member_, other).posted.load() + 1u;
    const bool waits_for_message =
        (receiving & 0xffffffffu) == static_cast<uint64_t>(member_) + 1 &&
        static_cast<uint32_t>(receiving >> 32) == static_cast<uint32_t>(next_message);
    if (want.peer >= 0 && begun > sequence_)
      fail("COMM_MISMATCH",
           "ranks called different things: " + current() + ", " + name + " " +
               describe(peer.descriptor[begun & 1]),
           other);
    if (sends_to_us && !we_receive)
      fail("COMM_MISMATCH",
           "ranks called different things: " + current() + ", " + name + " send to rank " +
               std::to_string(number(member_)) + " (" +
               std::to_string(outbox(other, member_).message_bytes) + " bytes)",
           other);
    if (waits_for_message && !we_send)
      fail("COMM_MISMATCH",
           "ranks called different things: " + current() + ", " + name + " recv from rank " +
               std::to_string(number(member_)),
           other);

    if (static_cast<double>(waited) > hang_timeout_ms_ * 1e6) {
      std::string last = "it has not opened this communicator";
      if (has_outboxes)
        last = begun == 0 ? "it has called nothing here yet"
                          : "its newest call here was " + describe(peer.descriptor[begun & 1]);
      fail("COMM_HANG",
           name + " has not come to " + current() + " for " + format_seconds(waited) +
               ": it is alive, " + last,
           other);
    }
  }
}

std::string Channel::current() const {
  const std::string name = "rank " + std::to_string(number(member_)) + " ";
  if (message_peer_ < 0) return name + describe(slot(member_).descriptor[sequence_ & 1]);
  return name + operation_name(message_operation_) +
         (message_operation_ == Operation::kSend ? " to rank " : " from rank ") +
         std::to_string(number(message_peer_)) + " (" + std::to_string(message_bytes_) + " bytes)";
}

// Every member compares with member 0, so that all of them name the same two ranks.
void Channel::compare() {
  for (int other = 1; other < members(); ++other) {
    const std::string what = difference(number(0), descriptor(0), number(other), descriptor(other));
    if (!what.empty()) fail("COMM_MISMATCH", what, member_ == 0 ? other : 0);
  }
}

void Channel::withdraw(std::exception_ptr why) {
  if (!failure_) failure_ = std::move(why);
  slot(member_).closed.store(1);
}

void Channel::fail(const char* code, const std::string& message, int peer_member) {
  const Operation operation =
      message_peer_ >= 0
          ? message_operation_
          : static_cast<Operation>(slot(member_).descriptor[sequence_ & 1].operation);
  failure_ =
      std::make_exception_ptr(EngineError(code, message, operation_name(operation), number(member_),
                                          peer_member < 0 ? -1 : number(peer_member)));
  std::rethrow_exception(failure_);
}

}  // namespace dsjs
