// Ordered engine queues and the works on them.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsjs {

enum class QueueId : int { kCompute = 0, kComm = 1, kIo = 2 };

using WorkId = uint64_t;

struct WorkRecord {
  WorkId work;
  QueueId queue;
  std::string name;
  uint64_t enqueued_ns, start_ns, end_ns;
};

// Three queues, one thread each. A work starts when everything before it on its queue has ended and
// all of `after` has; a failed dependency fails the work with the same error, without running it.
class Queues {
 public:
  Queues();
  ~Queues();  // drains nothing: cancels what has not started, joins threads
  Queues(const Queues&) = delete;
  Queues& operator=(const Queues&) = delete;

  WorkId enqueue(QueueId queue, std::string name, std::vector<WorkId> after,
                 std::function<void()> fn);
  // Calls done(error or null) on the finishing thread, or at once when the work has ended.
  void on_done(WorkId work, std::function<void(std::exception_ptr)> done);
  // Blocks; rethrows the work's error.
  void wait(WorkId work);
  void idle();
  void set_tracing(bool on);
  std::vector<WorkRecord> take_records();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsjs
