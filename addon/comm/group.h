// The communicator over shared memory: one set of algorithms for ranks that are processes and ranks
// that are threads.
//
// Three ways for data to travel, chosen from what every member posted, hence equally on all of
// them. N ranks, B bytes; traffic is what one rank reads and writes.
//
//   small    B ≤ 32 KiB. Copy into the own staging half, meet once, work from everyone's staging.
//            1 meeting; all-reduce: (N + 2)·B.
//   direct   the data of all members lies in shared arenas. Meet to exchange where, work in place
//   on
//            the peers' memory, meet again so that nobody's memory is still in use.
//            2 meetings; all-reduce: a rank reduces the n-th part of all arrays and writes it to
//            all: 2·B.
//   staged   else: the data passes through staging in chunks of 512 KiB, double-buffered.
//            1 + (1 or 2 a chunk) meetings; all-reduce: (N + 3)·B, for N > 3 about 5·B.
#pragma once
#include <memory>

#include "comm/channel.h"
#include "comm/communicator.h"
#include "comm/stats.h"

namespace dsjs {

class Group final : public Communicator {
 public:
  explicit Group(std::unique_ptr<Channel> channel);

  int rank() const override { return channel_->member(); }
  int size() const override { return channel_->members(); }

  void all_reduce(void* data, size_t count, DType type, ReduceOp op) override;
  void reduce_scatter(const void* bucket, size_t count, DType type,
                      const std::vector<Shard>& shards, void* target, DType target_type,
                      bool accumulate) override;
  void all_gather(void* data, size_t count, DType type, const std::vector<Shard>& shards) override;
  void all_to_all(const void* input, void* output, size_t block_bytes) override;
  void broadcast(void* data, size_t bytes, int root) override;
  // Returns when the receiver has it.
  void send(const void* data, size_t bytes, int peer) override;
  void recv(void* data, size_t bytes, int peer) override;
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  void leave(const std::string& reason) override;
  void withdraw(std::exception_ptr why) override { channel_->withdraw(std::move(why)); }
  void interrupt() override { channel_->interrupt(); }
  // How long a call waits for a rank that is alive.
  int base() const { return channel_->base(); }
  void set_hang_timeout_ms(double milliseconds) { channel_->set_hang_timeout_ms(milliseconds); }

  // For a communicator of several machines, where member 0 speaks for this one: a call begins with
  // confer(), in which each member lays down a note that all may read, and data for member 0, and
  // which returns when all have. It ends with tell() by member 0 and hear() by the others, which
  // wait for nobody else. `call` is for errors. Other calls may lie between.
  void confer(const Descriptor& call, const void* note, const void* data, size_t bytes);
  // Until the next call.
  const char* note_of(int member) const { return channel_->note(member); }
  const char* laid_down_by(int member) const { return channel_->small_half(member); }
  // Member 0, where nothing lies between: where data for all goes, kSmallBytes at most.
  char* told_data() { return channel_->small_half(0); }
  void tell(const void* note);
  // What member 0 has told, until the next call: its note; its data are told_data().
  const char* hear();
  uint64_t waited_ns() const { return channel_->waited_ns(); }

  std::shared_ptr<Buffer> allocate_shared(size_t bytes, Category category,
                                          std::shared_ptr<MemoryAccount> account) override;
  bool shares_memory() const override { return true; }
  std::shared_ptr<Buffer> allocate_joint(const std::vector<size_t>& bytes, Category category,
                                         std::shared_ptr<MemoryAccount> account) override;
  void all_gather_joint(size_t count, DType type, const std::vector<Shard>& shards) override;
  void charge(std::shared_ptr<MemoryAccount> account) override {
    channel_->charge(std::move(account));
  }
  std::vector<CommStat> stats() const override { return stats_.read(); }
  void throttle(double bytes_per_second) override { bytes_per_second_ = bytes_per_second; }

 private:
  enum class Way { kSmall, kDirect, kStaged };
  // What this rank lays into its small staging half.
  struct Deposit {
    const void* data = nullptr;
    size_t bytes = 0;
  };

  // Begins a collective and meets once. `data` of `bytes` is what peers would work on in place;
  // `largest` the largest deposit of any member, which decides whether the call is small.
  Way start(Operation operation, DType type, uint64_t count, uint64_t detail, const void* data,
            size_t bytes, size_t largest, Deposit deposit);
  // What each member deposits, a small value, is read by all: read(member, value).
  template <class Value, class Read>
  void exchange(Operation operation, uint64_t detail, const Value& own, const Read& read);
  // Runs a call; what it throws closes the channel, so that peers do not wait in vain.
  template <class Body>
  void guarded(const Body& body);
  // Also times it.
  template <class Body>
  void timed(Operation operation, size_t bytes, const Body& body);
  // The same for send and recv.
  template <class Body>
  void message(Operation operation, size_t bytes, int peer, const Body& body);

  // Two halves of this size for collectives, one piece for messages.
  static constexpr size_t kChunkBytes = 512 * 1024;
  void open_staging() { channel_->open_large(3 * kChunkBytes); }
  char* chunk(int member) const;
  char* message_staging() const;
  // Where the member's data of this call lies, when the way is direct.
  char* peer_data(int member) const;
  int64_t locate(const void* data, size_t bytes) const;
  Arena& arena() const { return arena(rank()); }
  Arena& arena(int member) const { return channel_->world().arena(channel_->world_rank(member)); }

  // This rank's side of a new group: `group` are members of this one.
  std::unique_ptr<Channel> open_group(const std::vector<int>& group, int channel) const;

  void check_member(Operation operation, int member) const;

  std::unique_ptr<Channel> channel_;
  uint64_t chunk_step_ = 0;  // of staged collectives; its parity chooses the half
  StatTable stats_;
  double bytes_per_second_ = 0;
};

}  // namespace dsjs
