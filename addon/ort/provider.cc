#include "ort/provider.h"

#include <map>
#include <string_view>

#include "core/error.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

struct Provider {
  // As onnxruntime-node and transformers.js call it.
  const char* name;
  // As sessions are asked for it.
  const char* asked;
  // As the library lists it when it was compiled in.
  const char* listed;
};

constexpr Provider kProviders[] = {{"webgpu", "WebGPU", "WebGpuExecutionProvider"}};

const Provider* find(const std::string& name) {
  for (const Provider& provider : kProviders)
    if (name == provider.name) return &provider;
  return nullptr;
}

bool is_compiled_in(const Provider& provider) {
  char** names = nullptr;
  int count = 0;
  check(api::GetAvailableProviders(&names, &count), "list execution providers");
  bool found = false;
  for (int i = 0; i < count; ++i) found = found || provider.listed == std::string_view(names[i]);
  check(api::ReleaseAvailableProviders(names, count), "list execution providers");
  return found;
}

// The runtime puts a condition of its own source before the reason, and ends it with blanks.
std::string reason_of(const std::string& text) {
  constexpr std::string_view kCondition = " was false. ";
  const size_t place = text.find(kCondition);
  const std::string reason =
      place == std::string::npos ? text : text.substr(place + kCondition.size());
  return reason.substr(0, reason.find_last_not_of(" \n") + 1);
}

// Never destroyed: threads may wait for it when the process ends.
std::recursive_mutex& device() {
  static auto* const mutex = new std::recursive_mutex;
  return *mutex;
}

std::string try_provider(const Environment& environment, const Provider& provider) {
  if (!is_compiled_in(provider))
    return "ONNX Runtime " + library_version() + " of this platform was built without it";
  try {
    OrtSessionOptions* made = nullptr;
    check(api::CreateSessionOptions(&made), "create session options");
    const Owned<OrtSessionOptions> options(made);
    append_provider(made, provider.name);
    return reason_of(environment.probe(made));
  } catch (const EngineError& error) {
    return reason_of(error.what());
  }
}

std::string fault_of(const Environment& environment, const Provider& provider) {
  static std::mutex mutex;
  static std::map<std::string, std::string> faults;
  const std::lock_guard lock(mutex);
  const auto known = faults.find(provider.name);
  if (known != faults.end()) return known->second;
  const DeviceTurn turn(provider.name);
  return faults[provider.name] = try_provider(environment, provider);
}

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  throw EngineError("EXECUTION_PROVIDER", "execution provider " + name + " cannot be used: " + why,
                    "loadSession");
}

}  // namespace

std::vector<ProviderState> execution_providers(const Environment& environment) {
  std::vector<ProviderState> states;
  for (const Provider& provider : kProviders)
    states.push_back({provider.name, fault_of(environment, provider)});
  return states;
}

void require_provider(const Environment& environment, const std::string& name) {
  const Provider* provider = find(name);
  if (!provider) refuse(name, "this engine does not know it");
  const std::string fault = fault_of(environment, *provider);
  if (!fault.empty()) refuse(name, fault);
}

void append_provider(OrtSessionOptions* options, const std::string& name) {
  check(api::SessionOptionsAppendExecutionProvider(options, find(name)->asked, nullptr, nullptr, 0),
        "use execution provider " + name);
}

DeviceTurn::DeviceTurn(const std::string& provider) {
  if (!provider.empty()) lock_ = std::unique_lock(device());
}

void keep_device() { device().lock(); }

}  // namespace dsjs::ort
