// A small pool for the engine's own loops (optimizers, conversions, collectives). Kernels inside
// ONNX Runtime use the runtime's pool instead.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>

namespace dsjs {

class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts no thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls fn(begin, end) over a partition of [0, total) into equal pieces whose bounds are
  // multiples of `grain`, one piece a thread, and returns when all are done. The partition depends
  // only on total, grain and size(): results repeat bit for bit. An exception of fn is rethrown
  // here.
  void parallel_for(size_t total, size_t grain, const std::function<void(size_t, size_t)>& fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsjs
