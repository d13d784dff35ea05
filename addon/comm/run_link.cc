#include "comm/run_link.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "comm/run_abort.h"
#include "core/error.h"
#include "core/futex.h"

namespace dsjs {
namespace {

constexpr int kBeatMs = 500;
constexpr uint64_t kLongestTurnNs = 2 * kBeatMs * 1'000'000ull;
constexpr int kConnectTries = 20;

// Never freed: the thread runs to the last moment.
struct Link {
  int fd;
  double patience_ms;
  std::string launcher;
  std::mutex writing;
};
std::atomic<Link*> link_of_process{nullptr};

int connect_to(const std::string& address, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int problem = getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  std::string why = problem != 0 ? gai_strerror(problem) : "";
  for (addrinfo* place = found; place != nullptr; place = place->ai_next) {
    const int fd = socket(place->ai_family, place->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, place->ai_addr, place->ai_addrlen) == 0) {
      freeaddrinfo(found);
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return fd;
    }
    why = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  if (found != nullptr) freeaddrinfo(found);
  throw EngineError(
      "LAUNCHER_GONE",
      "cannot reach the launcher at " + address + ":" + std::to_string(port) + ": " + why,
      "joinRun");
}

bool write_line(Link& link, const std::string& line) {
  std::lock_guard lock(link.writing);
  const std::string text = line + "\n";
  size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t count = send(link.fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    sent += static_cast<size_t>(count);
  }
  return true;
}

// `abort RANK MESSAGE` or `left RANK REASON`; empty lines are the launcher's own signs of life.
void obey(const std::string& line) {
  const auto follow = [&](const std::string& word, const auto& act) {
    if (line.rfind(word, 0) != 0) return;
    char* rest = nullptr;
    const long rank = std::strtol(line.c_str() + word.size(), &rest, 10);
    act(static_cast<int>(rank), rest + (*rest == ' '));
  };
  follow("abort ", abort_run);
  follow("left ", note_left);
}

void keep(Link* link) {
  std::string received;
  // Silence is counted in turns: while this process or its machine stands still, nobody is silent.
  uint64_t silent_ns = 0, told = 0;
  for (uint64_t before = monotonic_ns();;) {
    const uint64_t now = monotonic_ns();
    silent_ns += std::min(now - before, kLongestTurnNs);
    before = now;
    if (static_cast<double>(silent_ns) / 1e6 > link->patience_ms)
      abort_run(-1, "this host is cut off: nothing was heard from the launcher at " +
                        link->launcher + " for " + std::to_string(silent_ns / 1'000'000'000) +
                        " s");
    if (now - told >= kBeatMs * 1'000'000ull) {
      // A full socket is one that the other side does not read: it must not stop this thread.
      std::unique_lock lock(link->writing, std::try_to_lock);
      if (lock) send(link->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
      told = now;
    }
    pollfd readable{link->fd, POLLIN, 0};
    if (poll(&readable, 1, kBeatMs) > 0) {
      char bytes[4096];
      const ssize_t count = recv(link->fd, bytes, sizeof bytes, MSG_DONTWAIT);
      // The launcher is gone: what the run shared is freed with its last process.
      if (count == 0 || (count < 0 && errno == ECONNRESET)) kill(getpid(), SIGKILL);
      if (count > 0) {
        silent_ns = 0;
        received.append(bytes, static_cast<size_t>(count));
        for (size_t end; (end = received.find('\n')) != std::string::npos;) {
          obey(received.substr(0, end));
          received.erase(0, end + 1);
        }
      }
    }
  }
}

void say_goodbye(int status) { tell_launcher("{\"bye\":" + std::to_string(status) + "}"); }

}  // namespace

void open_link(const LinkOptions& options) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (link_of_process.load() != nullptr)
    throw EngineError("INVALID_STATE", "this process has joined a run already", "joinRun");
  auto* link =
      new Link{-1, options.patience_ms, options.address + ":" + std::to_string(options.port), {}};
  for (int attempt = 1; link->fd < 0; ++attempt) try {
      link->fd = connect_to(options.address, options.port);
    } catch (const EngineError&) {
      if (attempt == kConnectTries) throw;
      usleep(100'000);
    }
  write_line(*link, options.hello);
  link_of_process.store(link);
#if defined(__GLIBC__)
  on_exit([](int status, void*) { say_goodbye(status); }, nullptr);
#else
  std::atexit([] { say_goodbye(0); });
#endif
  std::thread(keep, link).detach();
}

void tell_launcher(const std::string& line) {
  if (Link* link = link_of_process.load()) write_line(*link, line);
}

}  // namespace dsjs
