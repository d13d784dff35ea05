#include "ort/environment.h"

#include <mutex>
#include <thread>

#include "core/limits.h"
#include "ort/allocator.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr int kLogError = 3;

// The smallest model: ir_version 8, an empty graph "g", opset 13. Loading it with per-session
// threads disabled is how to learn whether the environment has a shared pool: creating one reports
// success also when somebody else's environment without a pool existed before.
constexpr unsigned char kEmptyModel[] = {0x08, 0x08, 0x3a, 0x03, 0x12, 0x01,
                                         0x67, 0x42, 0x02, 0x10, 0x0d};

bool has_shared_pool(OrtEnv* env) {
  OrtSessionOptions* made = nullptr;
  check(api::CreateSessionOptions(&made), "create session options");
  const Owned<OrtSessionOptions> options(made);
  check(api::DisablePerSessionThreads(made), "create session options");
  OrtSession* session = nullptr;
  OrtStatus* status =
      api::CreateSessionFromArray(env, kEmptyModel, sizeof kEmptyModel, made, &session);
  if (session) api::ReleaseSession(session);
  if (!status) return true;
  api::ReleaseStatus(status);
  return false;
}

}  // namespace

Environment::Environment(int threads, int ranks) {
  OrtThreadingOptions* made = nullptr;
  check(api::CreateThreadingOptions(&made), "create the thread pool");
  const Owned<OrtThreadingOptions> options(made);
  check(api::SetGlobalIntraOpNumThreads(made, threads), "create the thread pool");
  check(api::SetGlobalInterOpNumThreads(made, 1), "create the thread pool");
  // A spinning thread answers in a microsecond but needs a core of its own.
  const int may_spin = threads * ranks <= machine_cores() ? 1 : 0;
  check(api::SetGlobalSpinControl(made, may_spin), "create the thread pool");
  check(api::CreateEnvWithGlobalThreadPools(kLogError, "deepspeed-js", made, &env_),
        "create the ONNX Runtime environment");
  check(api::RegisterAllocator(env_, workspace_allocator()), "register the allocator");
  operators_ = operator_domain();
  pool_threads_ = has_shared_pool(env_) ? threads : 0;
}

Environment& Environment::get(int threads, int ranks) {
  // Never destroyed: at exit the runtime's own Node binding may still hold sessions.
  static Environment* const environment = new Environment(threads, ranks);
  return *environment;
}

}  // namespace dsjs::ort
