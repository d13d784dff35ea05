// What the machine and the container around this process allow.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace dsjs {

struct SystemLimits {
  // Bytes that this process may still take: the least of the system's available memory and what is
  // left under every control group above it.
  size_t memory_available;
  // The least of physical memory and the control groups' limits.
  size_t memory_limit;
  // Cores: affinity mask and CPU quota, whichever is less (a quota of 1.5 is 1.5).
  double cores;
};

SystemLimits system_limits();

// Cores that the whole run may use: as above without the affinity mask, which may be one rank's
// share of them. Read once.
double machine_cores();

// Binds the calling thread, and the threads it starts later, to these cores. Throws EngineError
// INVALID_ARGUMENT when the system refuses them; elsewhere than on Linux it does nothing, since
// macOS has no such call.
void bind_cores(const std::vector<int>& cores);

// "4.0 MiB": for messages.
std::string format_bytes(size_t bytes);

}  // namespace dsjs
