#include "engine/queue.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace dsjs {
namespace {

constexpr size_t kQueueCount = 3;
constexpr size_t kMaxRecords = 65'536;

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

struct Item {
  WorkId id;
  std::string name;
  std::vector<WorkId> after;
  std::function<void()> fn;
  std::function<void(std::exception_ptr)> skipped;
  std::vector<std::function<void(std::exception_ptr)>> done;
  std::function<void()> wanted;
  uint64_t enqueued_ns = 0;
};

std::exception_ptr disposed() {
  return std::make_exception_ptr(EngineError("DISPOSED", "the engine was disposed"));
}

}  // namespace

// One mutex guards everything: a work is milliseconds, and three threads with short critical
// sections do not contend. A work that succeeded leaves no trace: an id below `next_id` that is in
// neither table has ended well, so the tables hold only what is pending or failed.
struct Queues::State {
  mutable std::mutex mutex;
  std::condition_variable ended;
  std::array<std::condition_variable, kQueueCount> changed;
  std::array<std::deque<std::shared_ptr<Item>>, kQueueCount> pending;  // front = running or next
  std::unordered_map<WorkId, std::shared_ptr<Item>> open;
  std::unordered_map<WorkId, std::exception_ptr> failed;
  std::array<WorkId, kQueueCount> newest{};
  std::exception_ptr first_failure;
  WorkId next_id = 1;
  bool closing = false;
  bool tracing = false;
  std::deque<WorkRecord> records;
  std::array<std::thread, kQueueCount> threads;
  std::unordered_map<WorkId, std::shared_ptr<Item>> external;

  bool all_ended(const std::vector<WorkId>& works) const {
    for (WorkId work : works)
      if (open.contains(work)) return false;
    return true;
  }

  // The first of the external works that has not ended; null when all have.
  const Item* first_external(const std::vector<WorkId>& works) const {
    for (WorkId work : works)
      if (const auto it = external.find(work); it != external.end()) return it->second.get();
    return nullptr;
  }

  void record(WorkId work, size_t queue, std::string name, uint64_t enqueued_ns, uint64_t start) {
    if (!tracing) return;
    if (records.size() == kMaxRecords) records.pop_front();
    records.push_back(
        {work, static_cast<QueueId>(queue), std::move(name), enqueued_ns, start, now_ns()});
  }

  // Until all of `after` has ended. Waiting for external works alone is on record.
  void wait_for(std::unique_lock<std::mutex>& lock, size_t queue, const Item& item) {
    const Item* const asked = first_external(item.after);
    const std::string name = asked ? "wait for " + asked->name : "";
    ask_for(lock, item.after);
    changed[queue].wait(lock, [&] {
      return closing || std::ranges::all_of(item.after, [&](WorkId work) {
               return !open.contains(work) || external.contains(work);
             });
    });
    const uint64_t start = now_ns();
    changed[queue].wait(lock, [&] { return closing || all_ended(item.after); });
    if (asked) record(item.id, queue, name, item.enqueued_ns, start);
  }

  std::exception_ptr first_error(const std::vector<WorkId>& works) const {
    for (WorkId work : works)
      if (auto it = failed.find(work); it != failed.end()) return it->second;
    return nullptr;
  }

  // Records the end of the front of `queue`.
  void finish(std::unique_lock<std::mutex>& lock, size_t queue, std::exception_ptr error) {
    auto item = pending[queue].front();
    pending[queue].pop_front();
    finish(lock, std::move(item), error);
  }

  // Records the end of a work, then tells whoever waits. Called with the lock held; callbacks run
  // without it, because they may enqueue.
  void finish(std::unique_lock<std::mutex>& lock, std::shared_ptr<Item> item,
              std::exception_ptr error) {
    open.erase(item->id);
    if (error) {
      failed.emplace(item->id, error);
      if (!first_failure) first_failure = error;
    }
    for (auto& other : changed) other.notify_one();
    ended.notify_all();
    lock.unlock();
    for (auto& done : item->done) done(error);
    lock.lock();
  }

  // Those who end external works learn that someone waits for them.
  void ask_for(std::unique_lock<std::mutex>& lock, const std::vector<WorkId>& works) {
    for (WorkId work : works) {
      const auto found = external.find(work);
      if (found == external.end() || !found->second->wanted) continue;
      const auto wanted = std::exchange(found->second->wanted, nullptr);
      lock.unlock();
      wanted();
      lock.lock();
    }
  }

  void serve(size_t queue) {
    std::unique_lock lock(mutex);
    for (;;) {
      changed[queue].wait(lock, [&] { return closing || !pending[queue].empty(); });
      if (closing) break;
      auto item = pending[queue].front();
      wait_for(lock, queue, *item);
      if (closing) break;
      std::exception_ptr error = first_error(item->after);
      const uint64_t start = now_ns();
      lock.unlock();
      if (error) {
        if (item->skipped) item->skipped(error);
      } else {
        try {
          item->fn();
        } catch (...) {
          error = std::current_exception();
        }
      }
      // Frees what the work held before anyone learns that it ended.
      item->fn = nullptr;
      item->skipped = nullptr;
      lock.lock();
      record(item->id, queue, item->name, item->enqueued_ns, start);
      finish(lock, queue, error);
    }
    while (!pending[queue].empty()) finish(lock, queue, disposed());
  }
};

Queues::Queues() : state_(std::make_shared<State>()) {
  for (size_t queue = 0; queue < kQueueCount; queue++)
    state_->threads[queue] = std::thread([state = state_.get(), queue] { state->serve(queue); });
}

Queues::~Queues() { close(); }

void Queues::close() {
  {
    std::lock_guard lock(state_->mutex);
    state_->closing = true;
    for (auto& changed : state_->changed) changed.notify_all();
  }
  for (auto& thread : state_->threads)
    if (thread.joinable()) thread.join();
  std::unique_lock lock(state_->mutex);
  while (!state_->external.empty()) {
    const auto first = state_->external.begin();
    auto item = first->second;
    state_->external.erase(first);
    state_->finish(lock, std::move(item), disposed());
  }
}

ExternalWork Queues::external(std::string name, std::function<void()> wanted) {
  auto item = std::make_shared<Item>();
  item->name = std::move(name);
  item->wanted = std::move(wanted);
  std::lock_guard lock(state_->mutex);
  if (state_->closing) std::rethrow_exception(disposed());
  item->id = state_->next_id++;
  state_->open.emplace(item->id, item);
  state_->external.emplace(item->id, item);
  return {item->id, [state = state_, id = item->id](std::exception_ptr error) {
            std::unique_lock relock(state->mutex);
            const auto found = state->external.find(id);
            if (found == state->external.end()) return;
            auto ended = found->second;
            state->external.erase(found);
            state->finish(relock, std::move(ended), error);
          }};
}

WorkId Queues::enqueue(QueueId queue, std::string name, std::vector<WorkId> after,
                       std::function<void()> fn, std::function<void(std::exception_ptr)> skipped) {
  auto item = std::make_shared<Item>();
  item->name = std::move(name);
  item->fn = std::move(fn);
  item->skipped = std::move(skipped);
  std::lock_guard lock(state_->mutex);
  if (state_->closing) std::rethrow_exception(disposed());
  for (WorkId work : after)
    if (work == 0 || work >= state_->next_id)
      throw EngineError("INVALID_ARGUMENT",
                        "work " + std::to_string(work) + " in `after` was never enqueued",
                        item->name);
  item->after = std::move(after);
  item->id = state_->next_id++;
  if (state_->tracing) item->enqueued_ns = now_ns();
  const auto index = static_cast<size_t>(queue);
  state_->open.emplace(item->id, item);
  state_->pending[index].push_back(item);
  state_->newest[index] = item->id;
  state_->changed[index].notify_one();
  return item->id;
}

void Queues::on_done(WorkId work, std::function<void(std::exception_ptr)> done) {
  std::exception_ptr error;
  {
    std::unique_lock lock(state_->mutex);
    if (work == 0 || work >= state_->next_id)
      throw EngineError("INVALID_ARGUMENT", "work " + std::to_string(work) + " was never enqueued",
                        "wait");
    if (auto it = state_->open.find(work); it != state_->open.end()) {
      it->second->done.push_back(std::move(done));
      state_->ask_for(lock, {work});
      return;
    }
    error = state_->first_error({work});
  }
  done(error);
}

void Queues::wait(WorkId work) {
  std::unique_lock lock(state_->mutex);
  if (work == 0 || work >= state_->next_id)
    throw EngineError("INVALID_ARGUMENT", "work " + std::to_string(work) + " was never enqueued",
                      "wait");
  state_->ask_for(lock, {work});
  state_->ended.wait(lock, [&] { return !state_->open.contains(work); });
  if (auto error = state_->first_error({work})) std::rethrow_exception(error);
}

void Queues::idle() {
  std::unique_lock lock(state_->mutex);
  const std::vector<WorkId> newest(state_->newest.begin(), state_->newest.end());
  state_->ended.wait(lock, [&] { return state_->all_ended(newest); });
  if (auto error = std::exchange(state_->first_failure, nullptr)) std::rethrow_exception(error);
}

void Queues::on_idle(std::function<void(std::exception_ptr)> done) {
  std::unique_lock lock(state_->mutex);
  // Counts the newest works that are open, and this call itself; the last to end reports.
  auto remaining = std::make_shared<std::atomic<int>>(1);
  const auto one_ended = [state = state_.get(), remaining,
                          done = std::move(done)](std::exception_ptr) {
    if (--*remaining > 0) return;
    std::exception_ptr failure;
    {
      std::lock_guard relock(state->mutex);
      failure = std::exchange(state->first_failure, nullptr);
    }
    done(failure);
  };
  for (WorkId work : state_->newest) {
    const auto open = state_->open.find(work);
    if (open == state_->open.end()) continue;
    ++*remaining;
    open->second->done.push_back(one_ended);
  }
  lock.unlock();
  one_ended(nullptr);
}

void Queues::set_tracing(bool on) {
  std::lock_guard lock(state_->mutex);
  state_->tracing = on;
}

std::vector<WorkRecord> Queues::take_records() {
  std::lock_guard lock(state_->mutex);
  std::vector<WorkRecord> out(std::make_move_iterator(state_->records.begin()),
                              std::make_move_iterator(state_->records.end()));
  state_->records.clear();
  return out;
}

}  // namespace dsjs
