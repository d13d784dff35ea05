#include "comm/stats.h"

#include <chrono>
#include <thread>

#include "core/futex.h"

namespace dsjs {

void StatTable::record(const char* operation, uint64_t bytes, uint64_t total_ns, uint64_t wait_ns) {
  std::lock_guard lock(mutex_);
  CommStat& cell = cells_[{operation, bytes}];
  if (cell.calls == 0) {
    cell.operation = operation;
    cell.bytes = bytes;
  }
  ++cell.calls;
  cell.total_ns += total_ns;
  cell.wait_ns += wait_ns;
}

std::vector<CommStat> StatTable::read() const {
  std::lock_guard lock(mutex_);
  std::vector<CommStat> list;
  for (const auto& [key, cell] : cells_) list.push_back(cell);
  return list;
}

CallTimer::CallTimer(StatTable& table, const char* operation, uint64_t bytes,
                     uint64_t waited_before)
    : table_(table),
      operation_(operation),
      bytes_(bytes),
      waited_before_(waited_before),
      start_ns_(monotonic_ns()) {}

void CallTimer::finish(uint64_t waited_now, double bytes_per_second) {
  uint64_t elapsed = monotonic_ns() - start_ns_;
  if (bytes_per_second > 0) {
    const double needed = static_cast<double>(bytes_) / bytes_per_second * 1e9;
    if (needed > static_cast<double>(elapsed)) {
      std::this_thread::sleep_for(
          std::chrono::nanoseconds(static_cast<uint64_t>(needed) - elapsed));
      elapsed = monotonic_ns() - start_ns_;
    }
  }
  table_.record(operation_, bytes_, elapsed, waited_now - waited_before_);
}

}  // namespace dsjs
