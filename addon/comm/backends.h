// The communicators that exist.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace dsjs {

constexpr double kDefaultHangTimeoutMs = 30 * 60 * 1000;

// One rank alone: collectives are copies or nothing; nothing is shared.
std::unique_ptr<Communicator> make_solo();

// Ranks are processes that inherited the descriptors of a run (run_control.h). Each call makes a
// new communicator of all ranks; ranks make theirs in the same order.
std::unique_ptr<Communicator> make_shm(int rank, int control_fd, const std::vector<int>& arena_fds,
                                       double hang_timeout_ms = kDefaultHangTimeoutMs);

// Ranks are threads of this process that name the same key.
std::unique_ptr<Communicator> make_inprocess(const std::string& key, int rank, int world_size,
                                             double hang_timeout_ms = kDefaultHangTimeoutMs);

// The same, on machines that are made up: host_of[r] is the one of rank r. What ranks of different
// ones tell each other goes through copies of messages (memory_transport.cc). For tests.
std::unique_ptr<Communicator> make_inprocess_hosts(const std::string& key, int rank,
                                                   const std::vector<int>& host_of,
                                                   double hang_timeout_ms = kDefaultHangTimeoutMs);

}  // namespace dsjs
