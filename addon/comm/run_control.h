// A run as the launcher makes and watches it, and as a rank process joins it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/control_page.h"

namespace dsjs {

// File descriptors of a run's shared memory, close-on-exec.
struct RunFds {
  int control_fd;
  std::vector<int> arena_fds;  // one a rank
};
RunFds create_run_fds(int world_size);

// The launcher's view. `control_fd` stays the caller's and may be closed afterwards.
class RunControl {
 public:
  RunControl(int control_fd, int world_size) : page_(control_fd, world_size) {}

  struct RankState {
    int pid;  // 0 before it has joined
    bool joined, left;
    double heartbeat_age_ms;  // 0 before the first beat
  };
  std::vector<RankState> ranks() const;
  // Makes every waiting or later collective of the run fail. The first abort wins.
  void abort(int rank, const std::string& message) { page_.abort(rank, message); }

 private:
  ControlPage page_;
};

// A rank process, once: marks the descriptors close-on-exec, arranges that the process dies with
// its launcher, beats every 200 ms from a thread of its own, and leaves the run when it exits.
// Throws INVALID_STATE the second time and LAUNCHER_GONE when `parent_pid` is no longer the parent.
void join_run(int rank, int control_fd, const std::vector<int>& arena_fds, int parent_pid);

// Says why this process is about to end, to peers that will wait for it; also before it has opened
// any communicator. Nothing where join_run was not called.
void leave_run(const std::string& reason);

}  // namespace dsjs
