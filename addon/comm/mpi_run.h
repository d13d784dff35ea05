// A run whose ranks MPI started: who they are, on which machines, and the shared memory of each.
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/hosts_group.h"
#include "comm/mpi_transport.h"

namespace dsjs {

struct MpiOptions {
  std::string module;  // path of deepspeed_mpi.so
  // What must be alike on all ranks: versions, configs. One line for each difference to be told by.
  std::string identity;
  // 0: a host is what shares memory; else so many consecutive ranks make one, for tests.
  int ranks_a_host = 0;
  int lanes = 0;  // see HostsRun
};

// Once a process; later calls give the same run. All ranks call it. Throws MPI_NOT_BUILT,
// COMM_TRANSPORT, HOSTS_DIFFER, OUT_OF_MEMORY.
std::shared_ptr<HostsRun> open_mpi_run(const MpiOptions& options);

// Tells the others, once, why this process ends. Nothing without a run.
void leave_mpi_run(const std::string& reason);

}  // namespace dsjs
