// Messages between the ranks of a run that are on different machines: what the collectives of
// hosts_group.h are made of. The data travel by MPI (mpi_transport.h), or, in tests, from thread to
// thread (memory_transport.cc).
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace dsjs {

// Peers are ranks of the run. Messages of one pair and tag arrive in the order in which they were
// started.
struct Outgoing {
  int peer;
  const void* data;
  size_t bytes;
};
struct Incoming {
  int peer;
  void* data;
  size_t bytes;  // room; a message may be shorter
};

// Messages under way. Their memory must stay until done() or the end of the Exchange, which gives
// up what has not come.
class Exchange {
 public:
  virtual ~Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Whether everything has been sent and received, after waiting for it so long at most. Throws
  // COMM_TRANSPORT.
  virtual bool wait(uint64_t nanoseconds) = 0;
  // Of the Incoming with this index.
  virtual bool arrived(size_t index) const = 0;
  virtual size_t received(size_t index) const = 0;

 protected:
  Exchange() = default;
};

// What a rank tells another out of turn: it will call nothing more on a channel, or on
// communicators of the run.
struct Notice {
  static constexpr int kWholeRun = -1;
  int32_t channel;
  int32_t rank;
  // The newest call of that channel that it has returned from; for kWholeRun how many communicators
  // of the run it has left, the oldest first.
  uint64_t completed;
  int32_t failed;  // it closed because of an error
  char reason[300];
};

// The notices that have come to this rank: the first of each channel, and of the run the one that
// says most. Thread-safe.
class NoticeBoard {
 public:
  void post(const Notice& notice);
  std::optional<Notice> find(int channel, int rank) const;
  // This rank's own use of a channel has ended.
  void forget(int channel);

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<int, int>, Notice> notices_;
};

class Transport {
 public:
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  virtual std::unique_ptr<Exchange> start(int tag, const std::vector<Outgoing>& outgoing,
                                          const std::vector<Incoming>& incoming) = 0;
  // Appears on the peer's board, after what was sent to it before.
  virtual void notify(int peer, const Notice& notice) = 0;
  // Tags are 1 to this.
  virtual int last_tag() const = 0;

  NoticeBoard& board() { return board_; }

 protected:
  Transport() = default;

 private:
  NoticeBoard board_;
};

// Ranks are threads of this process that name the same key: messages are copied.
std::shared_ptr<Transport> make_memory_transport(const std::string& key, int rank);

}  // namespace dsjs
