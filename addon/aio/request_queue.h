// Reads and writes that are under way at the same time: the one thing that io_uring and a pool of
// threads do differently.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace dsjs::aio {

enum class Backend {
  kAuto,  // io_uring where the kernel has it and allows it
  kUring,
  kThreads,
};

const char* backend_name(Backend backend);

// One read or write of consecutive bytes.
struct Request {
  int descriptor;
  bool write;
  uint8_t* data;
  size_t bytes;
  uint64_t offset;
};

struct Completion {
  Request request;
  // Bytes moved, which may be fewer than asked for, or a negative errno.
  int64_t result;
};

// Used by one thread. It must be empty when it is destroyed: the memory of a request that is under
// way is still read or written.
class RequestQueue {
 public:
  virtual ~RequestQueue() = default;
  // At most `depth` requests may be pushed and not yet returned by wait().
  virtual void push(const Request& request) = 0;
  // Starts what was pushed.
  virtual void submit() = 0;
  // Blocks until one request has ended; appends all that have.
  virtual void wait(std::vector<Completion>& ended) = 0;
};

// Whether this kernel and this process's limits let io_uring be used. Asked of the system once.
bool uring_available();

// Null where io_uring is not available.
std::unique_ptr<RequestQueue> make_uring_queue(size_t depth);
std::unique_ptr<RequestQueue> make_thread_queue(size_t depth);

}  // namespace dsjs::aio
