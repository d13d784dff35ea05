#include <cstring>

#include "comm/backends.h"
#include "comm/reduce.h"
#include "comm/stats.h"
#include "core/error.h"

namespace dsjs {
namespace {

class Solo final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(void*, size_t count, DType type, ReduceOp) override {
    record("allReduce", count * size_of(type));
  }

  void reduce_scatter(const void* bucket, size_t count, DType type,
                      const std::vector<Shard>& shards, void* target, DType target_type,
                      bool accumulate) override {
    const Shard& own = shards.at(0);
    if (own.count > 0)
      sum_into({static_cast<const char*>(bucket) + own.offset * size_of(type)}, target, target_type,
               own.count, type, accumulate);
    record("reduceScatter", count * size_of(type));
  }

  void all_gather(void*, size_t count, DType type, const std::vector<Shard>&) override {
    record("allGather", count * size_of(type));
  }

  void all_to_all(const void* input, void* output, size_t block_bytes) override {
    std::memmove(output, input, block_bytes);
    record("allToAll", block_bytes);
  }

  void broadcast(void*, size_t bytes, int) override { record("broadcast", bytes); }
  void send(const void*, size_t, int peer) override { no_peer("send", peer); }
  void recv(void*, size_t, int peer) override { no_peer("recv", peer); }
  void barrier() override { record("barrier", 0); }

  std::unique_ptr<Communicator> split(int color, int) override {
    return color < 0 ? nullptr : make_solo();
  }

  void leave(const std::string&) override {}

  std::shared_ptr<Buffer> allocate_shared(size_t bytes, Category category,
                                          std::shared_ptr<MemoryAccount> account) override {
    return allocate_private(bytes, category, std::move(account));
  }

  std::vector<CommStat> stats() const override { return stats_.read(); }
  void throttle(double) override {}

 private:
  void record(const char* operation, uint64_t bytes) { stats_.record(operation, bytes, 0, 0); }

  [[noreturn]] static void no_peer(const char* operation, int peer) {
    throw EngineError("INVALID_ARGUMENT", "a single rank has no peer " + std::to_string(peer),
                      operation, 0, peer);
  }

  StatTable stats_;
};

}  // namespace

std::unique_ptr<Communicator> make_solo() { return std::make_unique<Solo>(); }

}  // namespace dsjs
