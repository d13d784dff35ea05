#include "io/fault.h"

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>

namespace dsjs::io {
namespace {

std::atomic<uint64_t> passed{0};

uint64_t from_environment() {
  const char* text = std::getenv("DEEPSPEED_JS_FAULT_POINT");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

std::atomic<uint64_t> fatal{from_environment()};

std::mutex holding;
std::condition_variable let_go;
// Points up to the one that waits; changed under `holding`.
std::atomic<uint64_t> to_hold{0};

}  // namespace

uint64_t set_fault_point(uint64_t n) {
  const uint64_t before = passed.exchange(0);
  fatal = n;
  return before;
}

void hold_fault_point(uint64_t n) {
  std::lock_guard lock(holding);
  to_hold = n;
  let_go.notify_all();
}

void fault_point() {
  if (++passed == fatal.load()) std::raise(SIGKILL);
  if (to_hold == 0) return;
  std::unique_lock lock(holding);
  if (to_hold > 0 && --to_hold == 0) let_go.wait(lock);
}

}  // namespace dsjs::io
