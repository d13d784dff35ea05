#include "core/limits.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

#include "core/error.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

namespace dsjs {
namespace {

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

#if defined(__linux__)

// A file that holds one number, or "max".
size_t read_number(const std::string& path, size_t missing) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word) || word == "max") return missing;
  try {
    return std::stoull(word);
  } catch (const std::exception&) {
    return missing;  // "-1" of version 1 parses; anything else is no limit
  }
}

// A "name value" line of a file such as memory.stat or /proc/meminfo.
size_t read_field(const std::string& path, const std::string& name, size_t missing) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    size_t value;
    if (words >> key >> value && key == name) return value;
  }
  return missing;
}

// The control groups of this process for one controller, innermost first, as folders. Version 2 has
// one tree ("0::/path"), version 1 one per controller ("4:memory:/path").
std::vector<std::string> cgroup_folders(const std::string& controller, bool& unified) {
  std::ifstream file("/proc/self/cgroup");
  std::string line, path;
  unified = true;
  bool found = false;
  while (std::getline(file, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    if (names == ",," && !found) {
      path = line.substr(second + 1);
      found = true;
    } else if (names.find("," + controller + ",") != std::string::npos) {
      path = line.substr(second + 1);
      unified = false;
      found = true;
    }
  }
  if (!found) return {};
  const std::string mount = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
  std::vector<std::string> folders;
  // Inside a container the path may be the host's and absent here: the root of the mount is then
  // the container's own group.
  while (path.size() > 1) {
    if (access((mount + path).c_str(), F_OK) == 0) folders.push_back(mount + path);
    path.resize(path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

struct MemoryRoom {
  size_t limit = kUnlimited;
  size_t available = kUnlimited;
};

MemoryRoom cgroup_memory() {
  bool unified;
  MemoryRoom room;
  for (const std::string& folder : cgroup_folders("memory", unified)) {
    const size_t limit =
        read_number(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes"), kUnlimited);
    if (limit >= (size_t{1} << 60)) continue;  // version 1 writes "no limit" as a huge number
    const size_t used =
        read_number(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes"), 0);
    // Clean page cache is given back when memory is short.
    const size_t cache =
        read_field(folder + "/memory.stat", unified ? "inactive_file" : "total_inactive_file", 0);
    const size_t busy = used - std::min(used, cache);
    room.limit = std::min(room.limit, limit);
    room.available = std::min(room.available, limit - std::min(limit, busy));
  }
  return room;
}

double cgroup_cores() {
  bool unified;
  double cores = std::numeric_limits<double>::infinity();
  for (const std::string& folder : cgroup_folders("cpu", unified)) {
    double quota = -1, period = 0;
    if (unified) {
      std::ifstream file(folder + "/cpu.max");
      std::string first;
      if (!(file >> first >> period) || first == "max") continue;
      quota = std::strtod(first.c_str(), nullptr);
    } else {
      std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
      std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    if (quota > 0 && period > 0) cores = std::min(cores, quota / period);
  }
  return cores;
}

double affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Machines with more than 1,024 cores do not fit cpu_set_t; the call fails there.
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::thread::hardware_concurrency();
  return CPU_COUNT(&set);
}

#endif

}  // namespace

SystemLimits system_limits() {
#if defined(__linux__)
  const MemoryRoom group = cgroup_memory();
  const size_t total = read_field("/proc/meminfo", "MemTotal:", 0) * 1024;
  const size_t free = read_field("/proc/meminfo", "MemAvailable:", 0) * 1024;
  return {std::min(free, group.available), std::min(total, group.limit),
          std::min(affinity_cores(), cgroup_cores())};
#elif defined(__APPLE__)
  uint64_t total = 0;
  size_t length = sizeof total;
  sysctlbyname("hw.memsize", &total, &length, nullptr, 0);
  vm_statistics64_data_t statistics;
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  size_t free = total;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64,
                        reinterpret_cast<host_info64_t>(&statistics), &count) == KERN_SUCCESS)
    free = (size_t{statistics.free_count} + statistics.inactive_count) * vm_page_size;
  return {free, total, static_cast<double>(std::thread::hardware_concurrency())};
#endif
}

double machine_cores() {
  static const double cores = [] {
    const double online = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
#if defined(__linux__)
    return std::min(online, cgroup_cores());
#else
    return online;
#endif
  }();
  return cores;
}

void bind_cores(const std::vector<int>& cores) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) {
    if (core < 0 || core >= CPU_SETSIZE)
      throw EngineError("INVALID_ARGUMENT", "core " + std::to_string(core) + " does not exist",
                        "bindCores");
    CPU_SET(core, &set);
  }
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    throw EngineError("INVALID_ARGUMENT",
                      std::string("cannot bind to these cores: ") + std::strerror(errno),
                      "bindCores");
#else
  (void)cores;
#endif
}

std::string format_bytes(size_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

}  // namespace dsjs
