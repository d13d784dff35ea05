// How the threads of a product take their work, for gemm.cc.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>

#include "core/parallel.h"
#include "gemm/gemm_kernels.h"

namespace dsjs {
namespace {

// The numbers below `count`, each given once. A worker begins in a range of its own, the same
// whenever the counts are: its cache may hold what it wrote there before. Then it takes what others
// have left.
class Tasks {
 public:
  Tasks(size_t count, size_t workers) : count_(count), ranges_(std::min(workers, kMostRanges)) {
    for (size_t i = 0; i < ranges_; ++i) std::construct_at(&taken_[i].count, size_t{0});
  }

  // `count` when all are given.
  size_t next(size_t worker) {
    for (size_t i = 0; i < ranges_; ++i) {
      const size_t at = (worker + i) % ranges_;
      const Span range = piece_of(count_, ranges_, at);
      std::atomic<size_t>& taken = taken_[at].count;
      if (taken.load(std::memory_order_relaxed) >= range.count) continue;
      const size_t task = taken.fetch_add(1, std::memory_order_relaxed);
      if (task < range.count) return range.begin + task;
    }
    return count_;
  }

 private:
  static constexpr size_t kMostRanges = 16;
  // On lines of their own, and only those that are used are made.
  struct alignas(64) Counter {
    Counter() {}
    union {
      std::atomic<size_t> count;
    };
  };
  size_t count_, ranges_;
  Counter taken_[kMostRanges];
};

// Calls fn(worker, next) at once on up to `workers` threads; next() gives each task below `tasks`
// once, and then `tasks`.
template <class Fn>
void share(Parallel& parallel, size_t workers, size_t tasks, Fn fn) {
  if (tasks == 0) return;
  // A counter that threads could share is a large part of a small product.
  workers = std::min(workers, tasks);
  if (workers == 1) {
    size_t taken = 0;
    return fn(size_t{0}, [&] { return std::min(taken++, tasks); });
  }
  Tasks shared(tasks, workers);
  parallel.run(workers, [&](size_t worker) { fn(worker, [&] { return shared.next(worker); }); });
}

}  // namespace
}  // namespace dsjs
