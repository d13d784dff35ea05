#include "comm/mpi_run.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "comm/run_abort.h"
#include "comm/run_control.h"
#include "core/build_id.h"
#include "core/error.h"

namespace dsjs {
namespace {

constexpr int kMostLanes = 256;

// What ranks tell each other first. It begins with what tells builds apart, whose other messages
// could mean other things.
struct Introduction {
  char build[32];
  char host[128];
  char identity[512];
  int32_t host_leader;
  int32_t pid;
};

// The descriptors of a host's shared memory, in its leader's process.
struct Descriptors {
  int32_t control;
  int32_t arenas[kMostLanes];
};

// How a step went on a rank; empty: well.
struct Outcome {
  char problem[300];
};

template <size_t N>
void put(char (&target)[N], const std::string& text) {
  std::memset(target, 0, N);
  std::memcpy(target, text.data(), std::min(text.size(), N - 1));
}

template <class T>
std::vector<T> gather(MpiTransport& mpi, const T& own) {
  const char* bytes = reinterpret_cast<const char*>(&own);
  const std::vector<char> all = mpi.gather({bytes, bytes + sizeof own});
  std::vector<T> values(static_cast<size_t>(mpi.size()));
  std::memcpy(values.data(), all.data(), all.size());
  return values;
}

std::string who(const std::vector<Introduction>& ranks, size_t rank) {
  return std::string(ranks[rank].host) + " (rank " + std::to_string(rank) + ")";
}

void require_alike(const std::vector<Introduction>& ranks, int own) {
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    const bool same_build = std::strcmp(ranks[0].build, ranks[rank].build) == 0;
    if (same_build && std::strcmp(ranks[0].identity, ranks[rank].identity) == 0) continue;
    const auto what = [&](size_t index) {
      const std::string build = same_build ? "" : std::string(", build ") + ranks[index].build;
      return who(ranks, index) + " has " + ranks[index].identity + build;
    };
    throw EngineError("HOSTS_DIFFER", "the hosts differ: " + what(0) + "; " + what(rank),
                      "createCommunicator", own, own == 0 ? static_cast<int>(rank) : 0);
  }
}

// Opens another process's descriptor anew. On Linux only, like what MPI runs on here.
int open_of(int pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const int copy = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (copy < 0)
    throw EngineError("COMM_CONTROL_PAGE",
                      "cannot open the shared memory of process " + std::to_string(pid) + ": " +
                          std::strerror(errno),
                      "createCommunicator");
  return copy;
}

// The ranks of this host, as World has them.
std::shared_ptr<World> share_memory(MpiTransport& mpi, const std::vector<Introduction>& ranks,
                                    int leader, const std::vector<int>& lanes) {
  const auto own =
      static_cast<int>(std::find(lanes.begin(), lanes.end(), mpi.rank()) - lanes.begin());
  Descriptors descriptors{};
  Outcome outcome{};
  RunFds fds{-1, {}};
  const auto attempt = [&](const auto& body) {
    try {
      body();
    } catch (const EngineError& error) {
      put(outcome.problem, error.what());
    }
  };
  attempt([&] {
    if (lanes.size() > kMostLanes)
      throw EngineError("LIMIT", std::to_string(lanes.size()) + " ranks on one host");
    if (mpi.rank() != leader) return;
    fds = create_run_fds(static_cast<int>(lanes.size()));
    descriptors.control = fds.control_fd;
    std::copy(fds.arena_fds.begin(), fds.arena_fds.end(), descriptors.arenas);
  });
  const Descriptors theirs = gather(mpi, descriptors)[static_cast<size_t>(leader)];
  std::shared_ptr<World> world;
  attempt([&] {
    if (outcome.problem[0] != '\0') return;
    if (mpi.rank() != leader) {
      const int pid = ranks[static_cast<size_t>(leader)].pid;
      fds.control_fd = open_of(pid, theirs.control);
      for (size_t lane = 0; lane < lanes.size(); ++lane)
        fds.arena_fds.push_back(open_of(pid, theirs.arenas[lane]));
    }
    world = World::inherited(fds.control_fd, fds.arena_fds, own);
  });
  // Also the moment after which all have opened what the leaders may now close.
  const std::vector<Outcome> outcomes = gather(mpi, outcome);
  if (fds.control_fd >= 0) close(fds.control_fd);
  for (int fd : fds.arena_fds) close(fd);
  for (size_t rank = 0; rank < outcomes.size(); ++rank)
    if (outcomes[rank].problem[0] != '\0')
      throw EngineError("COMM_CONTROL_PAGE", who(ranks, rank) + ": " + outcomes[rank].problem,
                        "createCommunicator", mpi.rank(), static_cast<int>(rank));
  world->set_numbers(lanes);
  at_abort(
      [world](int rank, const std::string& message) { world->control().abort(rank, message); });
  return world;
}

std::shared_ptr<HostsRun> open_run(const MpiOptions& options) {
  const auto mpi = MpiTransport::open(options.module);
  Introduction own{};
  put(own.build, build_id());
  gethostname(own.host, sizeof own.host - 1);
  put(own.identity, options.identity);
  own.host_leader = options.ranks_a_host > 0
                        ? mpi->rank() / options.ranks_a_host * options.ranks_a_host
                        : mpi->host_leader();
  own.pid = getpid();
  const std::vector<Introduction> ranks = gather(*mpi, own);
  require_alike(ranks, mpi->rank());

  auto run = std::make_shared<HostsRun>();
  run->rank = mpi->rank();
  run->transport = mpi;
  run->lanes = options.lanes;
  std::vector<int> leaders, lanes;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const int leader = ranks[rank].host_leader;
    if (leader == own.host_leader) lanes.push_back(static_cast<int>(rank));
    const auto known = std::find(leaders.begin(), leaders.end(), leader);
    const auto host = static_cast<int>(known - leaders.begin());
    if (known == leaders.end()) {
      leaders.push_back(leader);
      run->host_names.push_back(ranks[rank].host);
    }
    int lane = 0;
    for (const HostsRun::Place& place : run->places) lane += place.host == host;
    run->places.push_back({host, lane});
  }
  run->world = share_memory(*mpi, ranks, own.host_leader, lanes);
  return run;
}

// Outlives every thread.
std::shared_ptr<HostsRun>& opened() {
  static auto* run = new std::shared_ptr<HostsRun>;
  return *run;
}

// The ordinary end, process.exit and an uncaught error all pass through exit(), before MPI's own
// end, which waits for the other ranks: they are not to wait for this one.
void leave_at_exit() { leave_mpi_run("its process has ended"); }

}  // namespace

void leave_mpi_run(const std::string& reason) {
  if (!opened()) return;
  const HostsRun& run = *opened();
  const HostsRun::Place place = run.places[static_cast<size_t>(run.rank)];
  ControlPage& control = run.world->control();
  const RankEntry& entry = control.rank(place.lane);
  const uint32_t left = entry.left.load();
  control.leave_for_good(place.lane, reason);
  // Where nothing is open the others know, and may have ended MPI.
  if (left < entry.joined.load()) tell_left(run);
}

std::shared_ptr<HostsRun> open_mpi_run(const MpiOptions& options) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (!opened()) {
    opened() = open_run(options);
    std::atexit(leave_at_exit);
  }
  return opened();
}

}  // namespace dsjs
