// Run control as JavaScript sees it: createRunFds, openRunControl, closeFds, joinRun.
#pragma once
#include <napi.h>

#include <vector>

namespace dsjs::binding {

void register_run_control(Napi::Env env, Napi::Object exports);

// What identifies a rank's part in a run: rank, worldSize, controlFd, arenaFds. Throws
// INVALID_ARGUMENT.
struct RunOptions {
  int rank;
  int control_fd;
  std::vector<int> arena_fds;
};
RunOptions run_options(Napi::Object options);

}  // namespace dsjs::binding
