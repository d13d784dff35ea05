// Ordered engine queues and the works on them.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsjs {

enum class QueueId : int { kCompute = 0, kComm = 1, kIo = 2 };

using WorkId = uint64_t;

// What ran when, or, named "wait for NAME", how long a queue's next work waited for an external
// work alone.
struct WorkRecord {
  WorkId work;
  QueueId queue;
  std::string name;
  uint64_t enqueued_ns, start_ns, end_ns;
};

// A work on no queue: it ends when `end` is called, once, on any thread, with an error or null. A
// call after the queues have closed does nothing.
struct ExternalWork {
  WorkId id;
  std::function<void(std::exception_ptr)> end;
};

// Three queues, one thread each. A work starts when everything before it on its queue has ended and
// all of `after` has; a failed dependency fails the work with the same error, without running it.
// Order on a queue alone is not a dependency: a work runs also after an unrelated failure before
// it.
class Queues {
 public:
  Queues();
  ~Queues();  // as close()
  Queues(const Queues&) = delete;
  Queues& operator=(const Queues&) = delete;

  // Throws INVALID_ARGUMENT when `after` names a work that was never enqueued, DISPOSED after
  // close(). `skipped` is called on the queue's thread, in place of `fn`, with the error of a
  // dependency; it must not throw.
  WorkId enqueue(QueueId queue, std::string name, std::vector<WorkId> after,
                 std::function<void()> fn,
                 std::function<void(std::exception_ptr)> skipped = nullptr);
  // idle() does not wait for it. Throws DISPOSED after close(). `wanted` is called once, on any
  // thread, when someone waits for this work, or a queue's next work does; it must not throw and
  // must not wait.
  ExternalWork external(std::string name, std::function<void()> wanted = nullptr);
  // Calls done(error or null) on the finishing thread, or at once when the work has ended. `done`
  // must not throw and must not wait.
  void on_done(WorkId work, std::function<void(std::exception_ptr)> done);
  // Blocks; rethrows the work's error.
  void wait(WorkId work);
  // Blocks until everything enqueued so far has ended; rethrows the first failure since the last
  // idle().
  void idle();
  // As idle(), without blocking: calls done(failure or null) as on_done does.
  void on_idle(std::function<void(std::exception_ptr)> done);
  void set_tracing(bool on);
  // At most the newest 65,536 since the last call.
  std::vector<WorkRecord> take_records();
  // Fails what has not started, and external works, with DISPOSED, waits for what runs, joins the
  // threads. Idempotent.
  void close();

 private:
  struct State;
  std::shared_ptr<State> state_;  // external works may outlive the queues
};

}  // namespace dsjs
