// Private to hosts_group.cc and hosts_collectives.cc: timing a call.
#pragma once
#include "comm/hosts_group.h"
#include "core/error.h"
#include "core/futex.h"

namespace dsjs {

// Adds the time of its own life.
class WaitClock {
 public:
  explicit WaitClock(uint64_t& total) : total_(total), start_(monotonic_ns()) {}
  ~WaitClock() { total_ += monotonic_ns() - start_; }

 private:
  uint64_t& total_;
  uint64_t start_;
};

// Runs and times a call; what it throws closes the communicator, so that peers do not wait in vain.
template <class Body>
void HostsGroup::timed(Operation operation, size_t bytes, const Body& body) {
  const auto waited = [&] { return waited_ns_ + local_->waited_ns(); };
  CallTimer timer(stats_, operation_name(operation), bytes, waited());
  try {
    try {
      body();
    } catch (const EngineError& error) {
      trace_back(error);
      throw;
    }
    completed_ = sequence_;
  } catch (...) {
    withdraw(std::current_exception());
    throw;
  }
  timer.finish(waited(), bytes_per_second_);
}

}  // namespace dsjs
