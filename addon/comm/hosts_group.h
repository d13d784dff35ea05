// The communicator of a run over several machines: shared memory inside a machine (group.h),
// messages between them (transport.h).
//
// Words: a host is a machine; a lane, a rank's place among the members of its host. Sums run in
// rank order inside a host, and then, of these sums, in the order of the hosts (a host comes where
// its first member comes): a result depends on how members are spread over hosts, never on timing.
// 16-bit sums are rounded once a host and once more at the end; with one member a host, or one
// host, that is what group.h gives.
//
// Every call begins with a meeting, in which each member learns what all others call: members of a
// host tell each other, the first of each host tells the first of the others, and they tell theirs.
// Small arrays travel with it; of what is to be summed only each host's sum, and where that is up
// to 256 KiB it travels beside it. Larger arrays, H hosts with L members each, B bytes:
//
//   allReduce      windows; in each, lane l of every host sums the l-th slice of its host's arrays
//                  (B/L), and exchanges it with lane l of the other hosts: the h-th part goes to
//                  host h, which adds and returns it. A host sends and receives 2·B·(H − 1)/H, the
//                  least there is for any algorithm (Patarasuk and Yuan, JPDC 69, 2009). In one
//                  window, and in more than are on their way at once, each of two hosts adds
//                  everything itself: as many bytes, and one message less to wait for; in between
//                  half the adding counts for more. A window is on its way while the one before is
//                  added. One lane or all, whichever has been faster (lane_choice.h). The sums are
//                  the same.
//   reduceScatter  a shard's sums of each host go to its owner, from the lane that the owner has.
//   allGather      an owner's shard goes once to each other host, to the lane that the owner has.
//   broadcast      the root sends to the first of each other host.
//   allToAll       a block goes straight to its rank.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/group.h"
#include "comm/lane_choice.h"
#include "comm/transport.h"
#include "comm/world.h"
#include "core/error.h"

namespace dsjs {

// One rank's view of a run over several machines; all its communicators share it.
struct HostsRun {
  struct Place {
    int host;
    int lane;  // among the ranks of the host: its rank in `world`
  };
  int rank;
  std::vector<Place> places;            // of every rank of the run
  std::vector<std::string> host_names;  // for errors
  std::shared_ptr<Transport> transport;
  std::shared_ptr<World> world;  // the ranks of this host
  // Lanes that all-reduce uses, or 0: as many as measure fastest. That of a group's member 0
  // counts.
  int lanes = 0;
  // Channels of this rank's making so far, and communicators of the whole run.
  std::atomic<int> channels{0};
  int communicators = 0;

  // A number that no two channels have: `maker` is the rank that counts them, or the number of
  // ranks for communicators of the whole run, which all ranks count alike.
  int channel_number(int count, int maker) const {
    return count * (static_cast<int>(places.size()) + 1) + maker;
  }
};

// The k-th communicator of the whole run that this rank makes; ranks make theirs in one order.
std::unique_ptr<Communicator> make_hosts_group(std::shared_ptr<HostsRun> run,
                                               double hang_timeout_ms);

// The run of make_inprocess_hosts.
std::shared_ptr<HostsRun> open_inprocess_hosts(const std::string& key, int rank,
                                               const std::vector<int>& host_of);

// Tells the other hosts how much of the run this rank has left, and why, as its control page has
// it.
void tell_left(const HostsRun& run);

class HostsGroup final : public Communicator {
 public:
  // `ranks` are the members' ranks in the run; `local` joins those on this host, in that order.
  // Channels of two groups that share two ranks differ.
  HostsGroup(std::shared_ptr<HostsRun> run, std::unique_ptr<Group> local, std::vector<int> ranks,
             int channel, double hang_timeout_ms);
  ~HostsGroup() override;

  int rank() const override { return me_; }
  int size() const override { return static_cast<int>(ranks_.size()); }

  void all_reduce(void* data, size_t count, DType type, ReduceOp op) override;
  void reduce_scatter(const void* bucket, size_t count, DType type,
                      const std::vector<Shard>& shards, void* target, DType target_type,
                      bool accumulate) override;
  void all_gather(void* data, size_t count, DType type, const std::vector<Shard>& shards) override;
  void all_to_all(const void* input, void* output, size_t block_bytes) override;
  void broadcast(void* data, size_t bytes, int root) override;
  void send(const void* data, size_t bytes, int peer) override;
  void recv(void* data, size_t bytes, int peer) override;
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  void leave(const std::string& reason) override;
  void withdraw(std::exception_ptr why) override;
  void interrupt() override;

  std::shared_ptr<Buffer> allocate_shared(size_t bytes, Category category,
                                          std::shared_ptr<MemoryAccount> account) override {
    return local_->allocate_shared(bytes, category, std::move(account));
  }
  void charge(std::shared_ptr<MemoryAccount> account) override;
  std::vector<CommStat> stats() const override { return stats_.read(); }
  void throttle(double bytes_per_second) override { bytes_per_second_ = bytes_per_second; }

 private:
  // Bytes of each member that travel with a meeting, at most.
  static constexpr size_t kSmallBytes = 4096;
  // And of a host's sum: as much, from all other hosts together. It goes in one message of MPI.
  static constexpr size_t kSmallSumBytes = 32768;
  // Of what other hosts send in a window of a large array that is scattered, ...
  static constexpr size_t kScratchBytes = size_t{8} << 20;
  // ... and of a lane's slice of a window that is reduced, of which so many are on their way
  // besides the newest.
  static constexpr size_t kWindowBytes = size_t{256} << 10;
  static constexpr size_t kWindowsAhead = 8;
  // The messages of a window: MPI sends them without asking the receiver (Open MPI up to 64 KiB
  // with its header), who expects them anyway.
  static constexpr size_t kMessageBytes = size_t{60} << 10;
  enum Tag { kOpening, kData, kTags };

  int tag(Tag kind) const { return 1 + channel_ * kTags + kind; }
  int hosts() const { return static_cast<int>(hosts_.size()); }
  int lanes(int host) const { return static_cast<int>(hosts_[static_cast<size_t>(host)].size()); }
  int member_at(int host, int lane) const {
    return hosts_[static_cast<size_t>(host)][static_cast<size_t>(lane)];
  }
  int run_rank(int member) const { return ranks_[static_cast<size_t>(member)]; }

  template <class Body>
  void timed(Operation operation, size_t bytes, const Body& body);
  // What a member says in a meeting.
  struct Call {
    Descriptor descriptor;
    int32_t lanes;  // that all-reduce is to use; member 0's counts
  };
  // What goes with a meeting: so many bytes of each member.
  struct Deposit {
    const void* own = nullptr;
    size_t bytes = 0;
    // Reduced in each host, count elements: what travels is as long for all of them together.
    struct Reduced {
      size_t count;
      DType type;
      ReduceOp op;
    };
    std::optional<Reduced> reduced;
    // And reduced over all hosts: all that members get of it.
    void* into = nullptr;
  };
  static Deposit of_host(const void* own, size_t count, DType type, ReduceOp op) {
    return {own, count * size_of(type), Deposit::Reduced{count, type, op}};
  }
  // What a meeting brings, until the next call: the parts of the hosts, and what member 0 said.
  struct Meeting {
    std::vector<const char*> parts;
    int lanes = 0;
  };
  size_t part_bytes(const Deposit& deposit, int host) const {
    return deposit.bytes * (deposit.reduced ? 1 : static_cast<size_t>(lanes(host)));
  }
  size_t all_parts_bytes(const Deposit& deposit) const {
    size_t sum = 0;
    for (int host = 0; host < hosts(); ++host) sum += part_bytes(deposit, host);
    return sum;
  }
  // Of a member's own deposit, when it is `bytes` long.
  const char* deposit_of(const Meeting& meeting, int member, size_t bytes) const {
    return meeting.parts[static_cast<size_t>(host_of_[member])] +
           static_cast<size_t>(lane_of_[member]) * bytes;
  }
  // How much may be summed with a meeting.
  size_t small_sum_bytes() const {
    return std::max(kSmallBytes, kSmallSumBytes / static_cast<size_t>(hosts() - 1));
  }
  // The longest message that opens a call on a host.
  size_t opening_bytes(int host) const {
    const auto members = static_cast<size_t>(lanes(host));
    return members * sizeof(Call) + std::max(members * kSmallBytes, small_sum_bytes());
  }
  // Starts a collective: every member's call at every member, compared, and what goes with it.
  // `ahead` runs when the members of this host are known to call the same, before others are heard.
  Meeting meet(Operation operation, DType type, uint64_t count, uint64_t detail,
               const Deposit& deposit, const std::function<void()>& ahead = nullptr);
  // Of the first lane: messages that open calls, one behind the other, first the members' calls,
  // then the host's part.
  char* opening(int host);
  char* part(int host) { return opening(host) + static_cast<size_t>(lanes(host)) * sizeof(Call); }
  void write_part(const Deposit& deposit);
  // Sends this host's, of so many bytes, and receives those of the others.
  void exchange_openings(size_t bytes);
  Call call_of(int member);
  bool all_call_the_same();
  // What the first lane tells the others of its host.
  struct Verdict {
    int32_t differs;
    int32_t lanes;
    char room[Channel::kNoteBytes - 2 * sizeof(int32_t)];
  };
  Meeting give(const Deposit& deposit, bool alike);
  Meeting take(const Deposit& deposit);
  // Where members call different things all of them hear of all calls.
  [[noreturn]] void fail_for_difference();

  // Peers are members. Returns, when all have come and gone, how many bytes came.
  std::vector<size_t> exchange(Tag kind, const std::vector<Outgoing>& outgoing,
                               const std::vector<Incoming>& incoming);
  std::unique_ptr<Exchange> start(Tag kind, std::vector<Outgoing> outgoing,
                                  std::vector<Incoming> incoming);
  void wait(Exchange& exchange, const std::vector<Incoming>& incoming);
  void look_around(Exchange& exchange, const std::vector<Incoming>& incoming, uint64_t since_ns);
  struct Gone {
    int member;
    std::string how;
    bool by_itself;  // not over another rank's end
  };
  // Who, of other hosts, will not come to this call any more.
  // `may_be_missed`, by host: whether anything is still to come from there; who has left the run
  // after its part is not missed.
  std::optional<Gone> who_is_gone(const std::vector<bool>& may_be_missed) const;
  std::vector<bool> yet_to_come(const Exchange& exchange,
                                const std::vector<Incoming>& incoming) const;
  [[noreturn]] void fail_for(const Gone& gone) const;
  void trace_back(const EngineError& error) const;
  void check_ended() const;
  std::string current() const;
  [[noreturn]] void fail(const char* code, const std::string& message, int peer) const;
  void tell_others(bool failed, const std::string& reason);

  // A window of an all-reduce on its way: hosts_reduce.cc.
  struct Window;
  Window make_window(char* data, size_t count, int lanes) const;
  size_t window_room() const;
  void reduce_ahead(char* data, size_t count, DType type, ReduceOp op);
  void reduce_large(char* data, size_t count, DType type, ReduceOp op, int lanes);
  void begin_window(Window& window, DType type, ReduceOp op, char* room);
  void add_window(Window& window, DType type, ReduceOp op);
  void end_window(Window& window, DType type);
  // The shard table of this host's members in which lane l has what member `member_at(host, round *
  // lanes + l)` has in `shards`; lanes without one have none.
  std::vector<Shard> shards_by_lane(const std::vector<Shard>& shards, int host, int round) const;
  // Rounds in which this host's lanes serve all lanes of `host`.
  int rounds(int host) const { return (lanes(host) + lanes(host_) - 1) / lanes(host_); }
  char* scratch(size_t bytes);
  // Tells the peer of a message, and hears whether it expects the same.
  void open_message(Operation operation, size_t bytes, int peer);
  template <class Body>
  void message(Operation operation, size_t bytes, int peer, const Body& body);
  void check_member(Operation operation, int member) const;

  std::shared_ptr<HostsRun> run_;
  std::unique_ptr<Group> local_;
  std::vector<int> ranks_;
  std::vector<std::vector<int>> hosts_;  // members of each host, ascending
  std::vector<int> host_of_, lane_of_;   // of each member
  int me_ = 0, host_ = 0, lane_ = 0;
  int least_lanes_ = 0;  // of a host
  int channel_;
  double hang_timeout_ms_;

  Call call_{};
  LaneChoice lane_choice_;
  // The peer of the message under way, -1 in collectives.
  int message_peer_ = -1;
  uint64_t sequence_ = 0, completed_ = 0;
  uint64_t waited_ns_ = 0;
  std::exception_ptr failure_;
  bool told_ = false;
  std::atomic<bool> interrupted_{false};
  std::shared_ptr<MemoryAccount> account_;
  std::shared_ptr<Buffer> scratch_, openings_;
  std::vector<size_t> opening_begins_;  // of each host
  StatTable stats_;
  double bytes_per_second_ = 0;
};

}  // namespace dsjs
