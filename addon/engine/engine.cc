#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace dsjs {
namespace {

[[noreturn]] void invalid(const std::string& message, const std::string& operation) {
  throw EngineError("INVALID_ARGUMENT", operation + ": " + message, operation);
}

std::vector<aio::Stretch> stretches_of(const std::vector<SwapPiece>& pieces) {
  std::vector<aio::Stretch> stretches;
  for (const auto& [offset, region] : pieces)
    stretches.push_back(
        {offset, static_cast<uint8_t*>(region.data()), region.count * size_of(region.dtype)});
  return stretches;
}

// A region that may be absent, where `count` is 0.
void require_fp32(const char* operation, const char* name, const Region& region, size_t count) {
  const size_t given = region.buffer ? region.count : 0;
  if (given != count)
    invalid(std::string(name) + " has " + std::to_string(given) + " elements, must have " +
                std::to_string(count),
            operation);
  if (given > 0 && region.dtype != DType::kFloat32)
    invalid(std::string(name) + " must be float32", operation);
}

float* floats(const Region& region) {
  return region.buffer ? static_cast<float*>(region.data()) : nullptr;
}

}  // namespace

Engine::Engine(std::shared_ptr<Communicator> communicator, EngineConfig config)
    : communicator_(std::move(communicator)),
      config_(std::move(config)),
      workspace_(std::make_shared<ort::WorkspacePool>(account_)) {
  communicator_->charge(account_);
  if (config_.threads < 1) invalid("threads must be at least 1", "createEngine");
  pool_ = std::make_unique<ThreadPool>(config_.threads);
  if (config_.ort_library.empty()) return;
  ort::load_library(config_.ort_library);
  environment_ = &ort::Environment::get(config_.threads, communicator_->size());
  OrtRunOptions* options = nullptr;
  ort::check(ort::api::CreateRunOptions(&options), "create run options");
  run_options_.reset(options);
}

Engine::~Engine() { dispose(); }

void Engine::dispose() {
  if (std::exchange(disposed_, true)) return;
  if (run_options_)
    ort::check(ort::api::RunOptionsSetTerminate(run_options_.get()), "end the runs");
  communicator_->interrupt();
  queues_.close();
  communicator_.reset();  // peers that wait for this rank learn that it has left
  instances_.clear();
  sessions_.clear();
  workspace_->trim();
}

void Engine::require_open() const {
  if (disposed_) throw EngineError("DISPOSED", "the engine was disposed");
}

std::shared_ptr<Buffer> Engine::allocate(size_t bytes, Category category, bool shared) {
  require_open();
  return shared ? communicator_->allocate_shared(bytes, category, account_)
                : allocate_private(bytes, category, account_);
}

std::shared_ptr<Buffer> Engine::allocate_joint(const std::vector<size_t>& bytes,
                                               Category category) {
  require_open();
  return communicator_->allocate_joint(bytes, category, account_);
}

std::vector<ort::ProviderState> Engine::execution_providers() const {
  require_open();
  if (!environment_)
    throw EngineError("ORT_LIBRARY", "this engine was made without ONNX Runtime",
                      "executionProviders");
  return ort::execution_providers(*environment_);
}

uint32_t Engine::load_session(const void* model, size_t bytes, ort::SessionConfig config) {
  require_open();
  if (!environment_)
    throw EngineError("ORT_LIBRARY", "this engine was made without ONNX Runtime", "loadSession");
  config.threads = config_.threads;
  sessions_.emplace(next_id_, std::make_shared<ort::Session>(*environment_, model, bytes,
                                                             std::move(config), workspace_));
  return next_id_++;
}

void Engine::release_session(uint32_t session) {
  if (!disposed_ && sessions_.erase(session) == 0)
    invalid("there is no session " + std::to_string(session), "releaseSession");
}

uint32_t Engine::create_instance(uint32_t session, std::vector<ort::BoundTensor> inputs,
                                 std::vector<ort::BoundTensor> outputs) {
  require_open();
  const auto found = sessions_.find(session);
  if (found == sessions_.end())
    invalid("there is no session " + std::to_string(session), "createInstance");
  instances_.emplace(next_id_, std::make_shared<ort::Instance>(found->second, std::move(inputs),
                                                               std::move(outputs)));
  return next_id_++;
}

void Engine::release_instance(uint32_t instance) {
  if (!disposed_ && instances_.erase(instance) == 0)
    invalid("there is no instance " + std::to_string(instance), "releaseInstance");
}

WorkId Engine::run(uint32_t instance, std::vector<WorkId> after) {
  require_open();
  const auto found = instances_.find(instance);
  if (found == instances_.end()) invalid("there is no instance " + std::to_string(instance), "run");
  return queues_.enqueue(
      QueueId::kCompute, found->second->name(), std::move(after),
      [bound = found->second, options = run_options_.get()] { bound->run(options); });
}

WorkId Engine::fill(Region region, double value, std::vector<WorkId> after) {
  require_open();
  return queues_.enqueue(QueueId::kCompute, "fill", std::move(after),
                         [pool = pool_.get(), region = std::move(region), value] {
                           fill_region(*pool, region, value);
                         });
}

WorkId Engine::copy(Region source, Region target, std::vector<WorkId> after) {
  require_open();
  require_equal_counts("copy", source, target);
  return queues_.enqueue(QueueId::kCompute, "copy", std::move(after),
                         [pool = pool_.get(), source = std::move(source),
                          target = std::move(target)] { copy_region(*pool, source, target); });
}

WorkId Engine::axpby(Region source, Region target, double b, double a, std::vector<WorkId> after) {
  require_open();
  require_equal_counts("axpby", source, target);
  return queues_.enqueue(
      QueueId::kCompute, "axpby", std::move(after),
      [pool = pool_.get(), source = std::move(source), target = std::move(target), b, a] {
        axpby_region(*pool, source, target, b, a);
      });
}

WorkId Engine::squared_norm(std::vector<Region> regions, Region out, std::vector<WorkId> after) {
  require_open();
  if (out.count != 2 || out.dtype != DType::kFloat64)
    invalid("out must be two float64", "squaredNorm");
  return queues_.enqueue(QueueId::kCompute, "squaredNorm", std::move(after),
                         [pool = pool_.get(), regions = std::move(regions), out = std::move(out)] {
                           squared_norm_regions(*pool, regions, static_cast<double*>(out.data()));
                         });
}

WorkId Engine::optimizer_step(OptimizerStep step, std::vector<WorkId> after) {
  require_open();
  check_optimizer_step(step);
  return queues_.enqueue(
      QueueId::kCompute, "optimizerStep", std::move(after),
      [pool = pool_.get(), step = std::move(step)] { run_optimizer_step(*pool, step); });
}

WorkId Engine::swap_in(std::shared_ptr<aio::SwapFile> file, std::vector<SwapPiece> pieces,
                       std::vector<WorkId> after) {
  require_open();
  return queues_.enqueue(
      QueueId::kIo, "swapIn", std::move(after),
      [file = std::move(file), pieces = std::move(pieces)] { file->read(stretches_of(pieces)); });
}

WorkId Engine::swap_out(std::shared_ptr<aio::SwapFile> file, std::vector<SwapPiece> pieces,
                        Region norm, std::vector<WorkId> after) {
  require_open();
  return queues_.enqueue(
      QueueId::kIo, "swapOut", std::move(after),
      [file = std::move(file), pieces = std::move(pieces), norm = std::move(norm)] {
        if (norm.buffer && static_cast<const double*>(norm.data())[1] != 0) return;
        file->write(stretches_of(pieces));
      });
}

// A collective that is skipped, because what it waits for failed, must not shift those behind it
// against the peers' collectives.
WorkId Engine::enqueue_collective(const char* name, std::vector<WorkId> after,
                                  std::function<void(Communicator&)> body) {
  return queues_.enqueue(
      QueueId::kComm, name, std::move(after),
      [comm = communicator_.get(), body = std::move(body)] { body(*comm); },
      [comm = communicator_.get()](std::exception_ptr why) { comm->withdraw(std::move(why)); });
}

WorkId Engine::all_reduce(Region region, ReduceOp op, std::vector<WorkId> after) {
  require_open();
  return enqueue_collective("allReduce", std::move(after),
                            [region = std::move(region), op](Communicator& comm) {
                              comm.all_reduce(region.data(), region.count, region.dtype, op);
                            });
}

void Engine::check_shards(const char* operation, const Region& region,
                          const std::vector<Shard>& shards,
                          const Communicator& communicator) const {
  if (shards.size() != static_cast<size_t>(communicator.size()))
    invalid(std::to_string(shards.size()) + " shards for " + std::to_string(communicator.size()) +
                " ranks",
            operation);
  for (size_t rank = 0; rank < shards.size(); rank++)
    if (shards[rank].offset > region.count ||
        shards[rank].count > region.count - shards[rank].offset)
      invalid("the shard of rank " + std::to_string(rank) + " ends outside the region of " +
                  std::to_string(region.count) + " elements",
              operation);
}

WorkId Engine::reduce_scatter(Region bucket, std::vector<Shard> shards, Region target,
                              bool accumulate, std::vector<WorkId> after) {
  require_open();
  check_shards("reduceScatter", bucket, shards, *communicator_);
  const size_t own = shards[static_cast<size_t>(communicator_->rank())].count;
  if (target.buffer ? target.count != own : own != 0)
    invalid("target has " + std::to_string(target.buffer ? target.count : 0) +
                " elements, this rank's shard " + std::to_string(own),
            "reduceScatter");
  if (target.buffer && target.dtype != DType::kFloat32 && target.dtype != bucket.dtype)
    invalid("target must be float32 or of the bucket's type", "reduceScatter");
  return enqueue_collective("reduceScatter", std::move(after),
                            [bucket = std::move(bucket), shards = std::move(shards),
                             target = std::move(target), accumulate](Communicator& comm) {
                              comm.reduce_scatter(bucket.data(), bucket.count, bucket.dtype, shards,
                                                  target.buffer ? target.data() : nullptr,
                                                  target.dtype, accumulate);
                            });
}

WorkId Engine::all_gather(Region region, std::vector<Shard> shards, std::vector<WorkId> after) {
  require_open();
  check_shards("allGather", region, shards, *communicator_);
  return enqueue_collective(
      "allGather", std::move(after),
      [region = std::move(region), shards = std::move(shards)](Communicator& comm) {
        if (region.buffer->joint())
          return comm.all_gather_joint(region.count, region.dtype, shards);
        comm.all_gather(region.data(), region.count, region.dtype, shards);
      });
}

uint32_t Engine::create_quantiser(const BlockQuantisation& how, size_t largest) {
  require_open();
  quantisers_.emplace(
      next_id_, std::make_shared<QuantisedCollectives>(how, largest, *communicator_, account_));
  return next_id_++;
}

const std::shared_ptr<QuantisedCollectives>& Engine::quantiser(uint32_t id,
                                                               const char* operation) const {
  const auto found = quantisers_.find(id);
  if (found == quantisers_.end()) invalid("there is no quantiser " + std::to_string(id), operation);
  return found->second;
}

WorkId Engine::quantised_all_gather(uint32_t id, Region region, std::vector<Shard> shards,
                                    std::vector<WorkId> after) {
  constexpr const char* kOperation = "quantisedAllGather";
  require_open();
  check_shards(kOperation, region, shards, *communicator_);
  if (region.dtype == DType::kFloat64) invalid("region must not be float64", kOperation);
  return enqueue_collective(kOperation, std::move(after),
                            [quantised = quantiser(id, kOperation), region = std::move(region),
                             shards = std::move(shards)](Communicator&) {
                              quantised->all_gather(region.data(), region.dtype, shards);
                            });
}

WorkId Engine::quantised_reduce_scatter(uint32_t id, Region bucket, std::vector<Shard> shards,
                                        Region target, bool accumulate, std::vector<WorkId> after) {
  constexpr const char* kOperation = "quantisedReduceScatter";
  require_open();
  check_shards(kOperation, bucket, shards, *communicator_);
  require_fp32(kOperation, "bucket", bucket, bucket.count);
  require_fp32(kOperation, "target", target,
               shards[static_cast<size_t>(communicator_->rank())].count);
  return enqueue_collective(
      kOperation, std::move(after),
      [quantised = quantiser(id, kOperation), bucket = std::move(bucket),
       shards = std::move(shards), target = std::move(target), accumulate](Communicator&) {
        quantised->reduce_scatter(floats(bucket), shards, floats(target), accumulate);
      });
}

uint32_t Engine::create_group(int color) {
  require_open();
  if (color < 0) invalid("color is negative", "createGroup");
  groups_.emplace(next_id_, communicator_->split(color, communicator_->rank()));
  return next_id_++;
}

WorkId Engine::all_gather_within(uint32_t id, Region region, std::vector<Shard> shards,
                                 std::vector<WorkId> after) {
  constexpr const char* kOperation = "allGatherWithin";
  require_open();
  const auto found = groups_.find(id);
  if (found == groups_.end()) invalid("there is no group " + std::to_string(id), kOperation);
  check_shards(kOperation, region, shards, *found->second);
  return enqueue_collective(
      kOperation, std::move(after),
      [group = found->second, region = std::move(region), shards = std::move(shards)](
          Communicator&) { group->all_gather(region.data(), region.count, region.dtype, shards); });
}

uint32_t Engine::create_compressor(const std::vector<size_t>& tensors) {
  require_open();
  if (tensors.empty() || std::find(tensors.begin(), tensors.end(), size_t{0}) != tensors.end())
    invalid("an empty tensor, or none at all, cannot be compressed", "createCompressor");
  compressors_.emplace(next_id_,
                       std::make_shared<CompressedAllReduce>(*communicator_, tensors, account_));
  return next_id_++;
}

const std::shared_ptr<CompressedAllReduce>& Engine::compressor(uint32_t id,
                                                               const char* operation) const {
  const auto found = compressors_.find(id);
  if (found == compressors_.end())
    invalid("there is no compressor " + std::to_string(id), operation);
  return found->second;
}

size_t Engine::compressor_served(uint32_t id) const {
  return compressor(id, "createCompressor")->served();
}

WorkId Engine::compressed_all_reduce(uint32_t id, Region x, Region worker_error,
                                     Region server_error, std::vector<WorkId> after) {
  constexpr const char* kOperation = "compressedAllReduce";
  require_open();
  const auto& reduce = compressor(id, kOperation);
  require_fp32(kOperation, "x", x, reduce->count());
  require_fp32(kOperation, "workerError", worker_error, reduce->count());
  require_fp32(kOperation, "serverError", server_error, reduce->served());
  if (reduce->chunks() > 1) return compressed_chunks(reduce, x, worker_error, server_error, after);
  return enqueue_collective(kOperation, std::move(after),
                            [reduce, x = std::move(x), worker_error = std::move(worker_error),
                             server_error = std::move(server_error)](Communicator&) {
                              reduce->run(floats(x), floats(worker_error), floats(server_error));
                            });
}

// While one chunk is on its way the next is packed, and the one before averaged or unpacked.
WorkId Engine::compressed_chunks(const std::shared_ptr<CompressedAllReduce>& reduce,
                                 const Region& x, const Region& worker_error,
                                 const Region& server_error, const std::vector<WorkId>& after) {
  std::vector<WorkId> done(reduce->chunks());
  const auto each = [&](const auto& enqueue) {
    for (size_t chunk = 0; chunk < done.size(); ++chunk) done[chunk] = enqueue(chunk);
  };
  const auto compute = [&](const char* name, std::vector<WorkId> before, auto step) {
    return queues_.enqueue(QueueId::kCompute, name, std::move(before), std::move(step));
  };
  each([&](size_t chunk) {
    return compute("compressedAllReduce: pack", after, [reduce, x, worker_error, chunk] {
      reduce->pack(chunk, floats(x), floats(worker_error));
    });
  });
  each([&](size_t chunk) {
    return enqueue_collective("compressedAllReduce: exchange", {done[chunk]},
                              [reduce, chunk](Communicator&) { reduce->exchange(chunk); });
  });
  const WorkId exchanged = done.back();
  each([&](size_t chunk) {
    return compute("compressedAllReduce: average", {done[chunk]},
                   [reduce, server_error, chunk] { reduce->average(chunk, floats(server_error)); });
  });
  // Nothing is unpacked where any chunk is refused.
  each([&](size_t chunk) {
    return enqueue_collective("compressedAllReduce: gather", {done[chunk], exchanged},
                              [reduce, chunk](Communicator&) { reduce->gather(chunk); });
  });
  const std::vector<WorkId> gathered = done;
  each([&](size_t chunk) {
    return compute("compressedAllReduce: unpack",
                   chunk + 1 < gathered.size() ? std::vector{gathered[chunk]} : gathered,
                   [reduce, x, chunk] { reduce->unpack(chunk, floats(x)); });
  });
  return done.back();
}

uint32_t Engine::create_gradient_compressor(const GradientCompression& compression,
                                            const std::vector<CompressedTensor>& tensors) {
  require_open();
  std::shared_ptr<GradientCompressor> made =
      make_gradient_compressor(compression, *communicator_, tensors, account_);
  const CompressedTensor& last = tensors.back();
  bucket_compressors_.emplace(next_id_,
                              BucketCompressor{std::move(made), last.offset + last.count()});
  return next_id_++;
}

const Engine::BucketCompressor& Engine::bucket_compressor(uint32_t id,
                                                          const char* operation) const {
  const auto found = bucket_compressors_.find(id);
  if (found == bucket_compressors_.end())
    invalid("there is no gradient compressor " + std::to_string(id), operation);
  return found->second;
}

size_t Engine::gradient_factors(uint32_t id) const {
  return bucket_compressor(id, "createGradientCompressor").compressor->factors();
}

WorkId Engine::compressed_sum(uint32_t id, Region x, Region error, Region factors,
                              std::optional<double> ratio, std::vector<WorkId> after) {
  constexpr const char* kOperation = "compressedSum";
  require_open();
  const auto& [compressor, end] = bucket_compressor(id, kOperation);
  if (x.count < end)
    invalid(
        "x has " + std::to_string(x.count) + " elements, the tensors end at " + std::to_string(end),
        kOperation);
  require_fp32(kOperation, "x", x, x.count);
  require_fp32(kOperation, "error", error, x.count);
  require_fp32(kOperation, "factors", factors, compressor->factors());
  if (ratio) check_ratio(*ratio);
  return enqueue_collective(kOperation, std::move(after),
                            [compressor = compressor, x = std::move(x), error = std::move(error),
                             factors = std::move(factors), ratio](Communicator&) {
                              if (ratio) compressor->set_ratio(*ratio);
                              compressor->run(floats(x), floats(error), floats(factors));
                            });
}

WorkId Engine::broadcast(Region region, int root, std::vector<WorkId> after) {
  require_open();
  if (root < 0 || root >= communicator_->size())
    invalid("there is no rank " + std::to_string(root), "broadcast");
  return enqueue_collective(
      "broadcast", std::move(after), [region = std::move(region), root](Communicator& comm) {
        comm.broadcast(region.data(), region.count * size_of(region.dtype), root);
      });
}

WorkId Engine::barrier(std::vector<WorkId> after) {
  require_open();
  return enqueue_collective("barrier", std::move(after),
                            [](Communicator& comm) { comm.barrier(); });
}

void Engine::throttle_comm(double bytes_per_second) {
  require_open();
  communicator_->throttle(bytes_per_second);
  for (auto& [id, group] : groups_) group->throttle(bytes_per_second);
}

std::vector<CommStat> Engine::comm_stats() const {
  require_open();
  std::vector<CommStat> all = communicator_->stats();
  for (const auto& [id, group] : groups_)
    for (CommStat& stat : group->stats()) {
      const auto same = std::find_if(all.begin(), all.end(), [&](const CommStat& other) {
        return other.operation == stat.operation && other.bytes == stat.bytes;
      });
      if (same == all.end()) {
        all.push_back(std::move(stat));
        continue;
      }
      same->calls += stat.calls;
      same->total_ns += stat.total_ns;
      same->wait_ns += stat.wait_ns;
    }
  return all;
}

}  // namespace dsjs
