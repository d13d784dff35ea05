// Sleeping on a 32-bit word that other processes may map: Linux futex, macOS ulock.
#pragma once
#include <atomic>
#include <cstdint>

namespace dsjs {

static_assert(std::atomic<uint32_t>::is_always_lock_free);

// Returns when the word is woken, no longer holds `expected`, `nanoseconds` have passed, or for no
// reason: callers look again.
void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, uint64_t nanoseconds);
void futex_wake_all(const std::atomic<uint32_t>& word);

// The monotonic clock, which all processes of a machine share.
uint64_t monotonic_ns();

}  // namespace dsjs
