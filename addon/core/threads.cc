#include "core/threads.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace dsjs {

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable start, finished;
  // One loop at a time: a second caller waits for the first.
  std::mutex one_loop;

  uint64_t loop = 0;  // counts loops; workers wake when it moves
  bool stopping = false;
  int running = 0;
  size_t total = 0, grain = 1;
  const std::function<void(size_t, size_t)>* fn = nullptr;
  std::exception_ptr failure;

  int parts() const { return static_cast<int>(workers.size()) + 1; }

  // Piece `index` of parts(): whole grains, the first pieces one grain longer where they do not
  // divide.
  void run_piece(int index) {
    const size_t grains = (total + grain - 1) / grain;
    const size_t each = grains / parts(), longer = grains % parts();
    const size_t position = static_cast<size_t>(index);
    const size_t first = position * each + std::min(position, longer);
    const size_t count = each + (position < longer ? 1 : 0);
    const size_t begin = std::min(total, first * grain);
    const size_t end = std::min(total, (first + count) * grain);
    if (begin == end) return;
    try {
      (*fn)(begin, end);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void work(int index) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      start.wait(lock, [&] { return stopping || loop != seen; });
      if (stopping) return;
      seen = loop;
      lock.unlock();
      run_piece(index);
      lock.lock();
      if (--running == 0) finished.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  state_->workers.reserve(threads > 1 ? threads - 1 : 0);
  for (int index = 1; index < threads; ++index)
    state_->workers.emplace_back([state = state_.get(), index] { state->work(index); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->start.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return state_->parts(); }

void ThreadPool::parallel_for(size_t total, size_t grain,
                              const std::function<void(size_t, size_t)>& fn) {
  State& state = *state_;
  if (total == 0) return;
  if (state.workers.empty() || total <= grain) {
    fn(0, total);
    return;
  }
  std::lock_guard only(state.one_loop);
  {
    std::lock_guard lock(state.mutex);
    state.total = total;
    state.grain = grain == 0 ? 1 : grain;
    state.fn = &fn;
    state.failure = nullptr;
    state.running = static_cast<int>(state.workers.size());
    ++state.loop;
  }
  state.start.notify_all();
  state.run_piece(0);
  std::unique_lock lock(state.mutex);
  state.finished.wait(lock, [&] { return state.running == 0; });
  if (state.failure) std::rethrow_exception(std::exchange(state.failure, nullptr));
}

}  // namespace dsjs
