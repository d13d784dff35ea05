// Collectives over a group of ranks. Sums run in rank order on every backend, so a result depends
// on neither timing nor backend.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"

namespace dsjs {

enum class ReduceOp { kSum, kMax, kMin };

// What a rank owns of a bucket, in elements.
struct Shard {
  size_t offset;
  size_t count;
};

struct CommStat {
  std::string operation;
  uint64_t bytes, calls, total_ns, wait_ns;
};

// All calls of one communicator come from one thread at a time, in the same order on every rank.
// Pointers that lie in shared arenas are used in place by peers; others are staged. Errors:
// EngineError with code COMM_MISMATCH (ranks called different things), COMM_PEER_LEFT,
// COMM_PEER_DIED, COMM_HANG, COMM_ABORTED.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place over `count` elements.
  virtual void all_reduce(void* data, size_t count, DType type, ReduceOp op) = 0;
  // shards.size() == size(). Sum over ranks of bucket[shards[r]] goes to r's `target`, whose type
  // is fp32 or the bucket's; target may be null where this rank's shard is empty.
  virtual void reduce_scatter(const void* bucket, size_t count, DType type,
                              const std::vector<Shard>& shards, void* target, DType target_type,
                              bool accumulate) = 0;
  // data[shards[r]] of rank r is copied into every other rank's data.
  virtual void all_gather(void* data, size_t count, DType type,
                          const std::vector<Shard>& shards) = 0;
  // Equal blocks: block p of `input` goes to rank p; `output` holds the blocks by source rank.
  virtual void all_to_all(const void* input, void* output, size_t block_bytes) = 0;
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  virtual void send(const void* data, size_t bytes, int peer) = 0;
  virtual void recv(void* data, size_t bytes, int peer) = 0;
  virtual void barrier() = 0;
  // Null for a negative color.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  virtual void leave(const std::string& reason) = 0;
  // This rank will miss a collective because of `why`, which every later call throws; peers get
  // COMM_PEER_LEFT instead of waiting in vain.
  virtual void withdraw(std::exception_ptr why) {}
  // From any thread: a call that waits for peers throws DISPOSED within some milliseconds.
  virtual void interrupt() {}

  // Memory that peers can read in place. Zeroed. Throws OUT_OF_MEMORY before anything is touched.
  virtual std::shared_ptr<Buffer> allocate_shared(size_t bytes, Category category,
                                                  std::shared_ptr<MemoryAccount> account) = 0;

  // Whether all ranks are on one machine, so that there can be joint memory.
  virtual bool shares_memory() const { return false; }
  // Zeroed memory of which rank r has bytes[r], back to back, and sees, and may write, all. Counted
  // are the rank's own. A page that two parts share is the first one's. Collective. Throws
  // OUT_OF_MEMORY, and COMM_PEER_LEFT on the other ranks then.
  virtual std::shared_ptr<Buffer> allocate_joint(const std::vector<size_t>& bytes,
                                                 Category category,
                                                 std::shared_ptr<MemoryAccount> account);
  // all_gather of joint memory, where everything is in its place: returns when all ranks have come
  // to it, and sees what they wrote before.
  virtual void all_gather_joint(size_t count, DType type, const std::vector<Shard>& shards);

  // Counts what this communicator holds for itself, now and later, as `communication`. Once, before
  // the first collective.
  virtual void charge(std::shared_ptr<MemoryAccount> account) {}

  virtual std::vector<CommStat> stats() const = 0;
  // For benches: bytes per second, 0 = unlimited.
  virtual void throttle(double bytes_per_second) = 0;

 protected:
  Communicator() = default;
};

}  // namespace dsjs
