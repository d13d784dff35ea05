// The engine of one rank: memory, compiled graphs, and the queues that use them. C++ twin of
// NativeEngine in src/native/contract.ts; see there for what each method means.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "aio/swap_file.h"
#include "comm/communicator.h"
#include "compress/block_quantiser.h"
#include "compress/compressed_all_reduce.h"
#include "compress/gradient_compressor.h"
#include "core/memory.h"
#include "core/threads.h"
#include "engine/queue.h"
#include "engine/tensor_work.h"
#include "ort/provider.h"
#include "ort/session.h"

namespace dsjs {

struct EngineConfig {
  // Threads for compute, this rank's share of the cores.
  int threads = 1;
  // The ONNX Runtime library; empty: load_session is refused.
  std::string ort_library;
};

// Bytes of a swap file from `offset` on, and the memory that they come from or go to.
struct SwapPiece {
  uint64_t offset;
  Region region;
};

// Methods are called from one thread (JavaScript's); works run on the queues' threads and hold the
// memory that they touch.
class Engine {
 public:
  Engine(std::shared_ptr<Communicator> communicator, EngineConfig config);
  ~Engine();  // as dispose()
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::shared_ptr<Buffer> allocate(size_t bytes, Category category, bool shared);
  // Communicator::allocate_joint.
  std::shared_ptr<Buffer> allocate_joint(const std::vector<size_t>& bytes, Category category);
  const MemoryAccount& account() const { return *account_; }
  Queues& queues() { return queues_; }

  // What else than the processor can compute sessions; throws ORT_LIBRARY without the library.
  std::vector<ort::ProviderState> execution_providers() const;
  // `config.threads` is set here. Returns the session's id.
  uint32_t load_session(const void* model, size_t bytes, ort::SessionConfig config);
  void release_session(uint32_t session);
  uint32_t create_instance(uint32_t session, std::vector<ort::BoundTensor> inputs,
                           std::vector<ort::BoundTensor> outputs);
  void release_instance(uint32_t instance);

  // Compute queue
  WorkId run(uint32_t instance, std::vector<WorkId> after);
  WorkId fill(Region region, double value, std::vector<WorkId> after);
  WorkId copy(Region source, Region target, std::vector<WorkId> after);
  WorkId axpby(Region source, Region target, double b, double a, std::vector<WorkId> after);
  // `out` is a region of two float64.
  WorkId squared_norm(std::vector<Region> regions, Region out, std::vector<WorkId> after);
  WorkId optimizer_step(OptimizerStep step, std::vector<WorkId> after);

  // Io queue. What does not fit is refused when the work runs.
  WorkId swap_in(std::shared_ptr<aio::SwapFile> file, std::vector<SwapPiece> pieces,
                 std::vector<WorkId> after);
  // Nothing is written where `norm`, if it has a buffer, counts values that are not finite.
  WorkId swap_out(std::shared_ptr<aio::SwapFile> file, std::vector<SwapPiece> pieces, Region norm,
                  std::vector<WorkId> after);

  // Comm queue
  WorkId all_reduce(Region region, ReduceOp op, std::vector<WorkId> after);
  // `target` has no buffer where this rank owns nothing.
  WorkId reduce_scatter(Region bucket, std::vector<Shard> shards, Region target, bool accumulate,
                        std::vector<WorkId> after);
  WorkId all_gather(Region region, std::vector<Shard> shards, std::vector<WorkId> after);
  // For flat vectors of tensors of these lengths. Every rank makes its compressors in the same
  // order.
  uint32_t create_compressor(const std::vector<size_t>& tensors);
  // Elements of the server error of this rank.
  size_t compressor_served(uint32_t compressor) const;
  // `server_error` has no buffer where this rank serves nothing.
  WorkId compressed_all_reduce(uint32_t compressor, Region x, Region worker_error,
                               Region server_error, std::vector<WorkId> after);
  // Collective, as create_compressor. Lossy sums of a bucket of gradients.
  uint32_t create_gradient_compressor(const GradientCompression& compression,
                                      const std::vector<CompressedTensor>& tensors);
  // Elements of `factors`.
  size_t gradient_factors(uint32_t compressor) const;
  // `factors` has no buffer where the compressor has none; `ratio` is as in set_ratio().
  WorkId compressed_sum(uint32_t compressor, Region x, Region error, Region factors,
                        std::optional<double> ratio, std::vector<WorkId> after);
  // Collective, as create_compressor. For parts of at most `largest` elements.
  uint32_t create_quantiser(const BlockQuantisation& how, size_t largest);
  WorkId quantised_all_gather(uint32_t quantiser, Region region, std::vector<Shard> shards,
                              std::vector<WorkId> after);
  // `bucket` and `target` are fp32; `target` has no buffer where this rank owns nothing.
  WorkId quantised_reduce_scatter(uint32_t quantiser, Region bucket, std::vector<Shard> shards,
                                  Region target, bool accumulate, std::vector<WorkId> after);
  // Collective, as create_compressor: the ranks of each color, in rank order. Returns a group that
  // all_gather_within takes.
  uint32_t create_group(int color);
  // As all_gather among the ranks of a group.
  WorkId all_gather_within(uint32_t group, Region region, std::vector<Shard> shards,
                           std::vector<WorkId> after);
  WorkId broadcast(Region region, int root, std::vector<WorkId> after);
  WorkId barrier(std::vector<WorkId> after);
  void throttle_comm(double bytes_per_second);
  std::vector<CommStat> comm_stats() const;

  // Ends runs, leaves the group, joins threads, frees sessions. Idempotent.
  void dispose();

 private:
  void require_open() const;
  WorkId enqueue_collective(const char* name, std::vector<WorkId> after,
                            std::function<void(Communicator&)> body);
  const std::shared_ptr<CompressedAllReduce>& compressor(uint32_t id, const char* operation) const;
  WorkId compressed_chunks(const std::shared_ptr<CompressedAllReduce>& reduce, const Region& x,
                           const Region& worker_error, const Region& server_error,
                           const std::vector<WorkId>& after);
  struct BucketCompressor {
    std::shared_ptr<GradientCompressor> compressor;
    // Elements up to the end of the last tensor.
    size_t end = 0;
  };
  const BucketCompressor& bucket_compressor(uint32_t id, const char* operation) const;
  const std::shared_ptr<QuantisedCollectives>& quantiser(uint32_t id, const char* operation) const;
  void check_shards(const char* operation, const Region& region, const std::vector<Shard>& shards,
                    const Communicator& communicator) const;

  std::shared_ptr<Communicator> communicator_;
  EngineConfig config_;
  std::shared_ptr<MemoryAccount> account_ = std::make_shared<MemoryAccount>();
  std::shared_ptr<ort::WorkspacePool> workspace_;
  std::unique_ptr<ThreadPool> pool_;
  const ort::Environment* environment_ = nullptr;  // null without ONNX Runtime
  // Given to every run, so that dispose() can end the one in flight.
  ort::Owned<OrtRunOptions> run_options_;
  std::unordered_map<uint32_t, std::shared_ptr<ort::Session>> sessions_;
  std::unordered_map<uint32_t, std::shared_ptr<ort::Instance>> instances_;
  std::unordered_map<uint32_t, std::shared_ptr<CompressedAllReduce>> compressors_;
  std::unordered_map<uint32_t, BucketCompressor> bucket_compressors_;
  std::unordered_map<uint32_t, std::shared_ptr<QuantisedCollectives>> quantisers_;
  std::unordered_map<uint32_t, std::shared_ptr<Communicator>> groups_;
  uint32_t next_id_ = 1;
  bool disposed_ = false;
  Queues queues_;  // last: its threads stop before anything above goes
};

}  // namespace dsjs
