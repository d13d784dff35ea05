// How often each collective was called, with how many bytes, and how long it took.
#pragma once
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace dsjs {

// Written by the thread that calls collectives, read by any.
class StatTable {
 public:
  void record(const char* operation, uint64_t bytes, uint64_t total_ns, uint64_t wait_ns);
  // Ordered by operation, then bytes.
  std::vector<CommStat> read() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, CommStat> cells_;
};

// Times one call and, for benches, stretches it to what a slower link would need.
class CallTimer {
 public:
  CallTimer(StatTable& table, const char* operation, uint64_t bytes, uint64_t waited_before);
  // Sleeps until `bytes` at `bytes_per_second` (0: no limit) would have passed, then records.
  void finish(uint64_t waited_now, double bytes_per_second);

 private:
  StatTable& table_;
  const char* operation_;
  uint64_t bytes_, waited_before_, start_ns_;
};

}  // namespace dsjs
