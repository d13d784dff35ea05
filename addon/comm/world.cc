#include "comm/world.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>

#include "core/error.h"
#include "core/shared_memory.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/syscall.h>
#endif

namespace dsjs {
namespace {

int duplicate(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0)
    throw EngineError("COMM_CONTROL_PAGE",
                      "file descriptor " + std::to_string(fd) + " of the run is not open", "join");
  return copy;
}

struct Registry {
  std::mutex mutex;
  // An inherited run lasts as long as the process. Joined anew, its channels would still show what
  // their last users published, and its arena would hand out memory that buffers still occupy.
  std::map<std::string, std::shared_ptr<World>> inherited;
  std::map<std::string, std::weak_ptr<World>> inprocess;
};

Registry& registry() {
  static Registry* worlds = new Registry;  // outlives every thread
  return *worlds;
}

}  // namespace

World::World(int control_fd, int size, bool processes)
    : control_(control_fd, size), processes_(processes), pidfds_(static_cast<size_t>(size), -1) {}

World::~World() {
  for (int fd : pidfds_)
    if (fd >= 0) close(fd);
}

std::shared_ptr<World> World::inherited(int control_fd, const std::vector<int>& arena_fds,
                                        int rank) {
  struct stat status;
  if (fstat(control_fd, &status) != 0)
    throw EngineError("COMM_CONTROL_PAGE",
                      "file descriptor " + std::to_string(control_fd) +
                          " of the run is not open: was this process started by the launcher?",
                      "join");
  const std::string key = std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) +
                          ":" + std::to_string(rank);
  std::lock_guard lock(registry().mutex);
  if (auto existing = registry().inherited.find(key); existing != registry().inherited.end())
    return existing->second;
  const int size = static_cast<int>(arena_fds.size());
  std::shared_ptr<World> world(new World(control_fd, size, true));
  for (int fd : arena_fds) world->arenas_.push_back(std::make_shared<Arena>(duplicate(fd)));
  registry().inherited[key] = world;
  return world;
}

std::shared_ptr<World> World::inprocess(const std::string& key, int size) {
  std::lock_guard lock(registry().mutex);
  if (auto existing = registry().inprocess[key].lock()) {
    if (existing->size() == size) return existing;
    throw EngineError("INVALID_ARGUMENT",
                      "the in-process run \"" + key + "\" has " + std::to_string(existing->size()) +
                          " ranks, not " + std::to_string(size),
                      "createCommunicator");
  }
  const int control_fd = ControlPage::create(size);
  std::shared_ptr<World> world;
  try {
    world.reset(new World(control_fd, size, false));
  } catch (...) {
    close(control_fd);
    throw;
  }
  close(control_fd);
  for (int rank = 0; rank < size; ++rank)
    world->arenas_.push_back(
        std::make_shared<Arena>(create_shared_memory("deepspeed-js arena", arena_reserve())));
  registry().inprocess[key] = world;
  return world;
}

int World::join(int rank) {
  std::lock_guard lock(mutex_);
  RankEntry& entry = control_.rank(rank);
  const uint32_t joined = entry.joined.load();
  if (joined == ControlPage::kBaseChannels)
    throw EngineError("LIMIT",
                      "a rank can make " + std::to_string(ControlPage::kBaseChannels) +
                          " communicators of one run; split one instead",
                      "createCommunicator", rank);
  entry.pid.store(getpid());
  entry.joined.store(joined + 1);
  return static_cast<int>(joined);
}

void World::keep_while(std::shared_ptr<Buffer> buffer, std::function<bool()> read) {
  std::lock_guard lock(mutex_);
  kept_.push_back({std::move(buffer), std::move(read)});
  std::erase_if(kept_, [](const Kept& kept) { return !kept.read(); });
}

World::Presence World::presence(int rank, int base) {
  if (control_.has_left(rank, base)) return Presence::kLeft;
  const int pid = control_.rank(rank).pid.load();
  if (!processes_ || pid == 0) return Presence::kHere;
  std::lock_guard lock(mutex_);
  if (process_alive(pid, pidfds_[rank])) return Presence::kHere;
  return control_.has_left(rank, base) ? Presence::kLeft : Presence::kDied;
}

bool process_alive(int pid, int& pidfd) {
#if defined(__linux__) && defined(SYS_pidfd_open)
  if (pidfd == -1) {
    pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0 && errno == ESRCH) {
      pidfd = -1;
      return false;
    }
    if (pidfd < 0) pidfd = -2;  // not allowed or not known here: ask by number
  }
  if (pidfd >= 0) {
    pollfd ended{pidfd, POLLIN, 0};
    return poll(&ended, 1, 0) == 0;
  }
#endif
  return kill(pid, 0) == 0 || errno != ESRCH;
}

}  // namespace dsjs
