#include "comm/run_control.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "core/futex.h"
#include "core/shared_memory.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace dsjs {
namespace {

constexpr auto kBeat = std::chrono::milliseconds(200);

// What a joined process keeps until it ends: never freed, since the heartbeat thread runs to the
// last moment.
struct Joined {
  ControlPage page;
  int rank;
};
std::atomic<Joined*> joined{nullptr};

void close_on_exec(int fd) {
  const int flags = fcntl(fd, F_GETFD);
  if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) != 0)
    throw EngineError(
        "COMM_CONTROL_PAGE",
        "file descriptor " + std::to_string(fd) + " of the run: " + std::strerror(errno),
        "joinRun");
}

void beat(Joined* run, int parent_pid) {
  while (true) {
    run->page.rank(run->rank).heartbeat_ns.store(monotonic_ns());
    // Where the system does not tell (macOS), or the tie to the launcher's thread was lost.
    if (getppid() != parent_pid) kill(getpid(), SIGKILL);
    std::this_thread::sleep_for(kBeat);
  }
}

// The ordinary end, process.exit and an uncaught error all pass through exit(); a kill does not.
// (Node runs no environment cleanup hooks on process.exit.)
void leave_at_exit() {
  Joined* run = joined.load();
  run->page.leave_for_good(run->rank, "its process has ended");
}

}  // namespace

RunFds create_run_fds(int world_size) {
  if (world_size < 1)
    throw EngineError("INVALID_ARGUMENT", "a run of " + std::to_string(world_size) + " ranks",
                      "createRunFds");
  RunFds fds{ControlPage::create(world_size), {}};
  try {
    for (int rank = 0; rank < world_size; ++rank)
      fds.arena_fds.push_back(create_shared_memory("deepspeed-js arena", arena_reserve()));
  } catch (...) {
    close(fds.control_fd);
    for (int fd : fds.arena_fds) close(fd);
    throw;
  }
  return fds;
}

std::vector<RunControl::RankState> RunControl::ranks() const {
  std::vector<RankState> states;
  const uint64_t now = monotonic_ns();
  for (int rank = 0; rank < page_.world_size(); ++rank) {
    const RankEntry& entry = page_.rank(rank);
    const int pid = entry.pid.load();
    const uint64_t beat_ns = entry.heartbeat_ns.load();
    const double age = beat_ns == 0 || beat_ns > now ? 0 : static_cast<double>(now - beat_ns) / 1e6;
    states.push_back({pid, pid != 0, entry.left.load() != 0, age});
  }
  return states;
}

void join_run(int rank, int control_fd, const std::vector<int>& arena_fds, int parent_pid) {
  const int size = static_cast<int>(arena_fds.size());
  if (rank < 0 || rank >= size)
    throw EngineError("INVALID_ARGUMENT",
                      "rank " + std::to_string(rank) + " of " + std::to_string(size), "joinRun");
  auto* run = new Joined{ControlPage(control_fd, size), rank};
  Joined* none = nullptr;
  if (!joined.compare_exchange_strong(none, run)) {
    delete run;
    throw EngineError("INVALID_STATE", "this process has joined a run already", "joinRun", rank);
  }
  close_on_exec(control_fd);
  for (int fd : arena_fds) close_on_exec(fd);
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
  // After the tie: a launcher that ended before it would not be noticed.
  if (getppid() != parent_pid)
    throw EngineError("LAUNCHER_GONE",
                      "the launcher (process " + std::to_string(parent_pid) + ") has ended",
                      "joinRun", rank);
  run->page.rank(rank).pid.store(getpid());
  std::atexit(leave_at_exit);
  std::thread(beat, run, parent_pid).detach();
}

void leave_run(const std::string& reason) {
  if (Joined* run = joined.load()) run->page.leave_for_good(run->rank, reason);
}

}  // namespace dsjs
