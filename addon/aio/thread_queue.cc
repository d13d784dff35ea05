// A thread for each request that may be under way, with pread and pwrite: for kernels without
// io_uring, containers that forbid it, and macOS.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "aio/request_queue.h"

namespace dsjs::aio {
namespace {

class ThreadQueue final : public RequestQueue {
 public:
  explicit ThreadQueue(size_t depth) {
    for (size_t i = 0; i < depth; ++i) threads_.emplace_back([this] { serve(); });
  }

  ~ThreadQueue() override {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void push(const Request& request) override { pushed_.push_back(request); }

  void submit() override {
    std::lock_guard lock(mutex_);
    for (const Request& request : pushed_) {
      waiting_.push_back(request);
      changed_.notify_one();
    }
    pushed_.clear();
  }

  void wait(std::vector<Completion>& ended) override {
    std::unique_lock lock(mutex_);
    one_ended_.wait(lock, [&] { return !ended_.empty(); });
    ended.insert(ended.end(), ended_.begin(), ended_.end());
    ended_.clear();
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return closing_ || !waiting_.empty(); });
      if (closing_) return;
      const Request request = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      const int64_t result = move(request);
      lock.lock();
      ended_.push_back({request, result});
      one_ended_.notify_one();
    }
  }

  static int64_t move(const Request& request) {
    for (;;) {
      const auto offset = static_cast<off_t>(request.offset);
      const ssize_t moved = request.write
                                ? pwrite(request.descriptor, request.data, request.bytes, offset)
                                : pread(request.descriptor, request.data, request.bytes, offset);
      if (moved >= 0) return moved;
      if (errno != EINTR) return -errno;
    }
  }

  std::vector<Request> pushed_;
  std::mutex mutex_;
  std::condition_variable changed_, one_ended_;
  std::deque<Request> waiting_;
  std::vector<Completion> ended_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kAuto:
      return "auto";
    case Backend::kUring:
      return "io_uring";
    case Backend::kThreads:
      return "threads";
  }
  return "";
}

std::unique_ptr<RequestQueue> make_thread_queue(size_t depth) {
  return std::make_unique<ThreadQueue>(depth);
}

}  // namespace dsjs::aio
