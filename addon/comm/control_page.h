// The control page of a run: one shared mapping in which ranks see each other, and the launcher
// sees them all. Layout: header, an entry per rank, a header per channel, a slot per channel and
// rank. It is committed when it is created, so that it can be touched without a thought.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace dsjs {

// What a rank says about itself.
struct alignas(512) RankEntry {
  std::atomic<int32_t> pid;  // 0 until it has joined
  // Communicators of the whole run that it has made, and how many of them it has left, the oldest
  // first: a training may end and another begin in the same process.
  std::atomic<uint32_t> joined;
  std::atomic<uint32_t> left;
  std::atomic<uint64_t> heartbeat_ns;
  char reason[400];  // why it left; written before `left` is set
};

// What one rank is calling on a channel. Two of them, used alternately: a peer may still read the
// one of the call before.
struct alignas(64) Descriptor {
  uint64_t sequence;
  int32_t operation;
  int32_t type;
  uint64_t count;
  uint64_t detail;   // reduction, root, or digest of the shards
  int64_t location;  // of the data in the caller's arena, or -1
};

// A member's side of a channel. `phase` counts what it has published and is what peers wait for; it
// has a cache line of its own.
struct alignas(64) Slot {
  std::atomic<uint32_t> phase;
  std::atomic<uint32_t> waiters;
  alignas(64) std::atomic<uint32_t> opened;
  std::atomic<uint32_t> closed;
  std::atomic<uint64_t> begun;      // sequence number of the newest call
  std::atomic<uint64_t> completed;  // and of the newest that has returned
  std::atomic<uint64_t> receiving;  // message << 32 | member + 1 while in recv, else 0
  std::atomic<int64_t> block;       // arena offset of its small staging and outboxes
  std::atomic<int64_t> staging;     // and of its large staging, -1 until needed
  Descriptor descriptor[2];
};

struct alignas(64) ChannelEntry {
  std::atomic<uint32_t> taken;
  std::atomic<uint32_t> open_members;
};

class ControlPage {
 public:
  // Channels [0, kBaseChannels) belong to the k-th communicator that each rank makes of the run;
  // the others are handed out by split.
  static constexpr int kBaseChannels = 64;
  static constexpr int kChannels = 256;

  // A new page: its file descriptor.
  static int create(int world_size);
  // Maps an existing page; `fd` stays the caller's. Throws COMM_CONTROL_PAGE when it is not one, or
  // made for another world size or version.
  ControlPage(int fd, int world_size);
  ~ControlPage();
  ControlPage(const ControlPage&) = delete;
  ControlPage& operator=(const ControlPage&) = delete;

  int world_size() const { return world_size_; }
  RankEntry& rank(int rank) const;
  ChannelEntry& channel(int channel) const;
  Slot& slot(int channel, int member) const;

  // The first abort wins; `rank` is the one to blame, -1 if none.
  void abort(int rank, const std::string& message);
  struct Abort {
    int rank;
    std::string message;
  };
  std::optional<Abort> aborted() const;

  // Says that `rank` leaves on purpose what it has joined so far, or with its process whatever it
  // may join. Of each communicator the first reason stays.
  static constexpr uint32_t kWholeRun = kBaseChannels;
  void leave(int rank, const std::string& reason);
  void leave_for_good(int rank, const std::string& reason) { leave(rank, kWholeRun, reason); }
  // Whether it has left its communicator `base` of the whole run, and the groups split off it.
  bool has_left(int rank, int base) const {
    return this->rank(rank).left.load() > static_cast<uint32_t>(base);
  }

  // A free channel beyond the base ones with its slots cleared, -1 if none is left.
  int take_channel(int members);
  // Each member does so once; after the last the channel is free.
  void give_back_channel(int channel);

 private:
  void leave(int rank, uint32_t communicators, const std::string& reason);

  int world_size_;
  size_t bytes_;
  char* base_;
};

}  // namespace dsjs
