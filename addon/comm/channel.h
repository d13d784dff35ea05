// A group's line on the control page: posting what a rank calls, waiting for the others, and
// finding out why one does not come.
//
// Protocol. A collective call is: begin (write the descriptor), publish (advance the own phase),
// wait until every member has published as much, compare descriptors. A call may publish again for
// later steps. All members publish equally often, so a phase names a moment that all of them have
// passed; in particular, once all have published call k + 1, none still reads what call k laid out.
// Hence two descriptors and two staging halves, used alternately, are enough.
#pragma once
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "comm/world.h"
#include "core/dtype.h"

namespace dsjs {

enum class Operation : int32_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kSplit,
  kSend,
  kReceive,
  kAllocateJoint,
  kAllGatherJoint,
};
const char* operation_name(Operation operation);
// `allReduce (call 3, 8 x float32)`, for errors.
std::string describe(const Descriptor& call);
// `1.5 s`
std::string format_seconds(uint64_t nanoseconds);
// Whether two calls may meet.
bool is_same(const Descriptor& call, const Descriptor& other);
// What differs between two calls that should be alike, for COMM_MISMATCH; empty when nothing does.
std::string difference(int rank, const Descriptor& call, int other_rank, const Descriptor& other);

// One piece of a message from a member to another, in the sender's arena.
struct alignas(64) Outbox {
  std::atomic<uint32_t> posted, taken, waiters, refused;
  int64_t location;
  uint64_t piece_bytes;
  uint64_t message_bytes;
  uint64_t refused_bytes;  // what the receiver expected instead
};

class Channel {
 public:
  // `base` is the channel of the communicator of the whole run that this one was split off, or its
  // own index; `ranks` are the members' world ranks, `member` this rank's place among them. Where
  // it throws (OUT_OF_MEMORY), the slot is closed, so that no peer waits for this rank.
  Channel(std::shared_ptr<World> world, int index, int base, std::vector<int> ranks, int member,
          double hang_timeout_ms);
  // Closes the slot. Staging that a slower peer may still read goes to the world to keep.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  int base() const { return base_; }
  int member() const { return member_; }
  int members() const { return static_cast<int>(ranks_.size()); }
  int world_rank(int member) const { return ranks_[member]; }
  // The number by which users know a member.
  int number(int member) const { return world_->number(ranks_[member]); }
  const std::vector<int>& world_ranks() const { return ranks_; }
  World& world() { return *world_; }
  std::shared_ptr<World> shared_world() const { return world_; }
  double hang_timeout_ms() const { return hang_timeout_ms_; }
  void set_hang_timeout_ms(double milliseconds) { hang_timeout_ms_ = milliseconds; }
  uint64_t sequence() const { return sequence_; }
  // Nanoseconds spent waiting since the channel was made.
  uint64_t waited_ns() const { return waited_ns_; }

  // Starts a collective call. Throws what ended the channel earlier, or COMM_ABORTED.
  void begin(Operation operation, DType type, uint64_t count, uint64_t detail, int64_t location);
  void publish();
  // Publishes and waits for all members to have done so.
  void meet();
  // Publishes, and waits for that member alone to have done so.
  void follow(int member);
  // The first meeting of a call: then all descriptors must agree, else COMM_MISMATCH on every
  // member.
  void meet_and_compare();
  // What a member posted for the current call.
  const Descriptor& descriptor(int member) const;
  void complete();

  // Start of a message to or from `peer`; messages of a pair are counted on both sides.
  void begin_message(Operation operation, int peer, uint64_t bytes);
  // Waits until peer's word has reached `target`, in an Operation that begin_message named.
  void wait_opened(int peer);
  void wait_outbox(int peer, const std::atomic<uint32_t>& word, std::atomic<uint32_t>& waiters,
                   uint32_t target);

  // After an error of any kind: peers that wait for this rank get an error instead of waiting in
  // vain, and so does every later call here.
  void withdraw(std::exception_ptr why);
  // From any thread: what waits now, or later, throws DISPOSED.
  void interrupt() { interrupted_.store(true); }
  // Ends the channel: this and every later call throws.
  [[noreturn]] void fail(const char* code, const std::string& message, int peer_member);

  Slot& slot(int member) const { return *slots_[member]; }
  char* arena_base(int member) const { return bases_[member]; }
  Outbox& outbox(int from, int to) const;

  // The small staging of a member: two halves; the outboxes lie behind them.
  static constexpr size_t kSmallBytes = 32768;
  char* small_half(int member) const;
  // And a few words beside it, twice: what a member says, and what it answers.
  static constexpr size_t kNoteBytes = 128;
  char* note(int member) const;
  char* answer(int member) const { return note(member) + kNoteBytes; }
  // The large staging of a member, of the size that it opened it with, at its first use.
  void open_large(size_t bytes);
  char* large(int member) const;
  // Counts this rank's staging, what there is and what will be, as `communication`.
  void charge(std::shared_ptr<MemoryAccount> account);

 private:
  struct Want;
  // Throws DISPOSED after interrupt(), COMM_ABORTED after the run's abort.
  void check_ended();
  void wait(const Want& want);
  void look_around(const Want& want, uint64_t since_ns);
  bool arrived(const Want& want, int member) const;
  std::string current() const;
  void compare();
  void open();
  // Whether a peer has yet to return from the newest call, and can.
  bool is_read() const;

  std::shared_ptr<World> world_;
  int index_, base_;
  std::vector<int> ranks_;
  int member_;
  double hang_timeout_ms_;
  std::vector<Slot*> slots_;
  std::vector<char*> bases_;
  std::shared_ptr<Buffer> block_;
  std::shared_ptr<Buffer> large_;
  std::shared_ptr<MemoryAccount> account_;

  uint64_t sequence_ = 0;
  uint32_t phase_ = 0;
  uint64_t waited_ns_ = 0;
  uint64_t spin_ns_;
  // The message under way; -1 in collectives.
  int message_peer_ = -1;
  Operation message_operation_ = Operation::kSend;
  uint64_t message_bytes_ = 0;
  std::exception_ptr failure_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace dsjs
