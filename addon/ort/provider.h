// Execution providers: what computes the nodes of a session. The processor's takes every node that
// another one leaves; `deepspeed.*` operators are the processor's alone.
#pragma once
#include <mutex>
#include <string>
#include <vector>

#include "ort/environment.h"
#include "ort/ort_api.h"

namespace dsjs::ort {

// A provider other than the processor's.
struct ProviderState {
  std::string name;
  // Why it cannot be used here; empty where it can.
  std::string fault;
};

// Every provider that this engine knows, tried: a device is asked for.
std::vector<ProviderState> execution_providers(const Environment& environment);

// Throws EXECUTION_PROVIDER with the reason unless sessions of the provider can be made. A provider
// is tried once per process.
void require_provider(const Environment& environment, const std::string& name);

// Has the session compute what it can on the provider.
void append_provider(OrtSessionOptions* options, const std::string& name);

// Sessions of a provider share its device, which is made for one thread at a time: held while one
// is made, runs or ends. Does nothing for the processor's.
class DeviceTurn {
 public:
  explicit DeviceTurn(const std::string& provider);

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

// Waits for the device's turn and keeps it: only the calling thread can have it from now on. For
// the end of a process, which takes drivers down while the engine's threads still run.
void keep_device();

}  // namespace dsjs::ort
