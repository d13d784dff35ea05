// Moves large stretches between memory and a file: cut into blocks, many of which are under way at
// once. The options are those of DeepSpeed's `aio` section.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aio/request_queue.h"
#include "core/threads.h"

namespace dsjs::aio {

// What direct I/O demands of addresses, offsets and lengths: the largest block of any disk.
constexpr size_t kAlignment = 4096;

struct Options {
  // Bytes of one request, a multiple of kAlignment.
  size_t block_size = size_t{1} << 20;
  // Requests of one lane that are under way at once.
  size_t queue_depth = 8;
  // Lanes: threads that share a transfer's blocks, each with a queue of its own (DeepSpeed's
  // intra_op_parallelism).
  size_t threads = 1;
  // Requests reach the system one by one, not together.
  bool single_submit = false;
  // A request is replaced as soon as it ends; false: only when all that are under way have.
  bool overlap_events = true;
  Backend backend = Backend::kAuto;
};

// Throws INVALID_ARGUMENT naming the option.
void check_options(const Options& options);

// Bytes [offset, offset + bytes) of the file and as many from `data`.
struct Stretch {
  uint64_t offset;
  uint8_t* data;
  size_t bytes;
};

// What the transfers so far came to.
struct TransferStats {
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t requests = 0;
  // How often requests were handed to the system, and how many of one lane were under way at most.
  uint64_t submissions = 0, most_under_way = 0;
};

// The queues of one file or of many; one transfer at a time.
class Transfers {
 public:
  explicit Transfers(const Options& options);
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // io_uring or threads.
  Backend backend() const { return backend_; }
  // Not while a transfer runs.
  TransferStats stats() const;

  // Returns when everything has been moved. An EngineError names `path`, the bytes and the system's
  // reason, as those of io/files.h do; requests that are under way have ended by then. Every block
  // that is written passes a fault point (io/fault.h).
  void read(int descriptor, const std::string& path, const std::vector<Stretch>& stretches);
  void write(int descriptor, const std::string& path, const std::vector<Stretch>& stretches);

 private:
  void run(int descriptor, bool write, const std::string& path,
           const std::vector<Stretch>& stretches);
  // Adds to the lane's part of the stats.
  void run_lane(size_t lane, const std::vector<Request>& blocks, size_t begin, size_t end,
                const std::string& path);

  const Options options_;
  const Backend backend_;
  std::vector<std::unique_ptr<RequestQueue>> lanes_;
  std::vector<TransferStats> stats_;  // by lane
  ThreadPool pool_;
};

}  // namespace dsjs::aio
