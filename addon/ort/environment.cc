#include "ort/environment.h"

#include <mutex>
#include <thread>

#include "core/limits.h"
#include "ort/allocator.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

// A model of one Identity over float[1].
constexpr unsigned char kProbeModel[] =
    {
        0x08, 0x08,                                     // ir_version 8
        0x3a, 0x37,                                     // graph
        0x0a, 0x10, 0x0a, 0x01, 'x',  0x12, 0x01, 'y',  //   node x -> y
        0x22, 0x08, 'I',  'd',  'e',  'n',  't',  'i',  't',  'y',  0x12, 0x01, 'g',  //   name
        0x5a, 0x0f, 0x0a, 0x01, 'x',  0x12, 0x0a, 0x0a,  //   input x: float[1]
        0x08, 0x08, 0x01, 0x12, 0x04, 0x0a, 0x02, 0x08, 0x01, 0x62, 0x0f, 0x0a, 0x01,
        'y',  0x12, 0x0a, 0x0a,  //   output y: float[1]
        0x08, 0x08, 0x01, 0x12, 0x04, 0x0a, 0x02, 0x08, 0x01, 0x42, 0x04, 0x0a, 0x00,
        0x10, 0x0d,  // opset 13
};

// Loading a model with per-session threads disabled is how to learn whether the environment has a
// shared pool: creating one reports success also when somebody else's environment without a pool
// existed before.
bool has_shared_pool(const Environment& environment) {
  OrtSessionOptions* made = nullptr;
  check(api::CreateSessionOptions(&made), "create session options");
  const Owned<OrtSessionOptions> options(made);
  check(api::DisablePerSessionThreads(made), "create session options");
  return environment.probe(made).empty();
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
  check(api::CreateEnvWithGlobalThreadPools(kLogFatal, "deepspeed-js", made, &env_),
        "create the ONNX Runtime environment");
  check(api::RegisterAllocator(env_, workspace_allocator()), "register the allocator");
  operators_ = operator_domain();
  pool_threads_ = has_shared_pool(*this) ? threads : 0;
}

std::string Environment::probe(const OrtSessionOptions* options) const {
  OrtSession* session = nullptr;
  OrtStatus* status =
      api::CreateSessionFromArray(env_, kProbeModel, sizeof kProbeModel, options, &session);
  if (session) api::ReleaseSession(session);
  if (!status) return {};
  const std::string reason = api::GetErrorMessage(status);
  api::ReleaseStatus(status);
  return reason;
}

Environment& Environment::get(int threads, int ranks) {
  // Never destroyed: at exit the runtime's own Node binding may still hold sessions.
  static Environment* const environment = new Environment(threads, ranks);
  return *environment;
}

}  // namespace dsjs::ort
