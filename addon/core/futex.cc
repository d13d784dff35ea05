#include "core/futex.h"

#include <ctime>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
// The kernel's own primitive under os_sync_wait_on_address, which exists only from macOS 14.4 on.
extern "C" int __ulock_wait(uint32_t operation, void* address, uint64_t value,
                            uint32_t microseconds);
extern "C" int __ulock_wake(uint32_t operation, void* address, uint64_t value);
#endif

namespace dsjs {

#if defined(__linux__)

void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, uint64_t nanoseconds) {
  const timespec timeout{static_cast<time_t>(nanoseconds / 1'000'000'000),
                         static_cast<long>(nanoseconds % 1'000'000'000)};
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

#elif defined(__APPLE__)

namespace {
constexpr uint32_t kCompareAndWaitShared = 3;
constexpr uint32_t kWakeAll = 0x100;
}  // namespace

void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, uint64_t nanoseconds) {
  __ulock_wait(kCompareAndWaitShared, const_cast<std::atomic<uint32_t>*>(&word), expected,
               static_cast<uint32_t>(nanoseconds / 1000 + 1));
}

void futex_wake_all(const std::atomic<uint32_t>& word) {
  __ulock_wake(kCompareAndWaitShared | kWakeAll, const_cast<std::atomic<uint32_t>*>(&word), 0);
}

#endif

uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace dsjs
