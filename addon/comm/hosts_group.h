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
// Up to kSmallBytes travel with it. Larger arrays, H hosts with L members each, B bytes:
//
//   allReduce      windows; in each, lane l of every host sums the l-th slice of its host's arrays
//                  (B/L), and exchanges it with lane l of the other hosts: the h-th part goes to
//                  host h, which adds and returns it. A host sends and receives 2·B·(H − 1)/H, the
//                  least there is for any algorithm (Patarasuk and Yuan, JPDC 69, 2009).
//   reduceScatter  a shard's sums of each host go to its owner, from the lane that the owner has.
//   allGather      an owner's shard goes once to each other host, to the lane that the owner has.
//   broadcast      the root sends to the first of each other host.
//   allToAll       a block goes straight to its rank.
#pragma once
#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "comm/group.h"
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
  // Lanes that all-reduce uses at most: 1 lets one rank a host do all the sending.
  int most_lanes = 1 << 30;
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
  // Bytes of each member that travel with a meeting.
  static constexpr size_t kSmallBytes = 4096;
  // Of what other hosts send in a window of a large array.
  static constexpr size_t kScratchBytes = size_t{8} << 20;
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
  // Starts a collective: every member's call at every member, compared; with it `bytes` of each
  // member's `deposit`, which come back in member order.
  std::vector<char> meet(Operation operation, DType type, uint64_t count, uint64_t detail,
                         const void* deposit = nullptr, size_t bytes = 0);
  // Of `all`, `bytes` a member in member order: this host's members get each other's ...
  void gather_in_host(std::vector<char>& all, size_t bytes);
  // ... and all of what their first lane has.
  void spread_in_host(std::vector<char>& all);
  // The first lane: calls and deposits of other hosts' members.
  void gather_from_hosts(std::vector<char>& calls, std::vector<char>& deposits, size_t bytes);
  void compare(const std::vector<char>& calls) const;

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
  std::optional<Gone> who_is_gone() const;
  [[noreturn]] void fail_for(const Gone& gone) const;
  void trace_back(const EngineError& error) const;
  void check_ended() const;
  std::string current() const;
  [[noreturn]] void fail(const char* code, const std::string& message, int peer) const;
  void tell_others(bool failed, const std::string& reason);

  // Each host's reduction of its members' deposits, `stride` bytes apart, in `sums` or in place.
  std::vector<const void*> reduce_in_hosts(const std::vector<char>& deposits, size_t stride,
                                           size_t offset, size_t count, DType type, ReduceOp op,
                                           std::vector<std::vector<char>>& sums) const;
  // Elements of a lane's slice, reduced over the hosts' lanes `lane_`.
  void reduce_between_hosts(char* data, size_t count, DType type, ReduceOp op);
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
  int channel_;
  double hang_timeout_ms_;

  Descriptor call_{};
  // The peer of the message under way, -1 in collectives.
  int message_peer_ = -1;
  uint64_t sequence_ = 0, completed_ = 0;
  uint64_t waited_ns_ = 0;
  std::exception_ptr failure_;
  bool told_ = false;
  std::atomic<bool> interrupted_{false};
  std::shared_ptr<MemoryAccount> account_;
  std::shared_ptr<Buffer> scratch_;
  StatTable stats_;
  double bytes_per_second_ = 0;
};

}  // namespace dsjs
