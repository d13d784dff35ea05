// All ranks of a run on one machine: their control page and arenas, mapped, and whether they live.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/arena.h"
#include "comm/control_page.h"

namespace dsjs {

class World {
 public:
  // The run whose descriptors this process inherited; they stay the caller's. Calls with the same
  // control page share one World, which is kept until the process ends, so that all communicators
  // of a rank allocate from one arena and none takes another's channel.
  static std::shared_ptr<World> inherited(int control_fd, const std::vector<int>& arena_fds,
                                          int rank);
  // The run that threads of this process form under one key. It ends with its last communicator; a
  // later one of the same key is a new run. Throws INVALID_ARGUMENT when sizes differ.
  static std::shared_ptr<World> inprocess(const std::string& key, int size);

  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int size() const { return control_.world_size(); }
  ControlPage& control() { return control_; }
  Arena& arena(int rank) { return *arenas_[rank]; }

  // Marks the rank as joined and gives it its next base channel. Throws LIMIT when they are used
  // up.
  int join(int rank);

  // By which numbers errors name the ranks, when they are a part of a run over several machines.
  // Every rank sets them alike, before its first call.
  void set_numbers(std::vector<int> numbers) {
    std::lock_guard lock(mutex_);
    if (numbers_.empty()) numbers_ = std::move(numbers);
  }
  int number(int rank) const { return numbers_.empty() ? rank : numbers_[rank]; }

  // Memory that a peer may still read after its owner is gone: it stays taken until the run ends.
  void keep(std::shared_ptr<Buffer> buffer) {
    keep_while(std::move(buffer), [] { return true; });
  }
  // The same while `read` says so, which is asked whenever this is called.
  void keep_while(std::shared_ptr<Buffer> buffer, std::function<bool()> read);

  // Whether the rank can still take part in its communicator `base` of the whole run.
  enum class Presence { kHere, kLeft, kDied };
  Presence presence(int rank, int base);

 private:
  World(int control_fd, int size, bool processes);

  ControlPage control_;
  // Ranks are processes that may die on their own, not threads of this one.
  bool processes_;
  std::vector<std::shared_ptr<Arena>> arenas_;
  std::mutex mutex_;
  std::vector<int> pidfds_;
  struct Kept {
    std::shared_ptr<Buffer> buffer;
    std::function<bool()> read;
  };
  std::vector<Kept> kept_;
  std::vector<int> numbers_;
};

// Whether the process exists and has not ended (a zombie has). `pidfd` caches a handle: -1 at
// first.
bool process_alive(int pid, int& pidfd);

}  // namespace dsjs
