#include "ort/session.h"

#include <algorithm>

#include "core/error.h"

namespace dsjs::ort {
namespace {

Owned<OrtSessionOptions> make_options(const SessionConfig& config, const Environment& environment) {
  OrtSessionOptions* made = nullptr;
  const std::string what = "configure session " + config.name;
  check(api::CreateSessionOptions(&made), what);
  Owned<OrtSessionOptions> options(made);
  check(api::SetSessionGraphOptimizationLevel(made, config.optimization_level), what);
  check(api::DisableCpuMemArena(made), what);
  check(api::AddSessionConfigEntry(made, "session.use_env_allocators", "1"), what);
  check(api::SetDeterministicCompute(made, true), what);
  if (!config.memory_pattern) check(api::DisableMemPattern(made), what);
  if (environment.shares_pool(config.threads)) {
    check(api::DisablePerSessionThreads(made), what);
  } else {
    check(api::SetIntraOpNumThreads(made, config.threads), what);
    check(api::SetInterOpNumThreads(made, 1), what);
    check(api::AddSessionConfigEntry(made, "session.intra_op.allow_spinning", "0"), what);
  }
  if (!config.profile_prefix.empty())
    check(api::EnableProfiling(made, config.profile_prefix.c_str()), what);
  check(api::AddCustomOpDomain(made, environment.operators()), what);
  return options;
}

template <class Count, class Name>
std::vector<std::string> read_names(const OrtSession* session, Count count_of, Name name_of) {
  OrtAllocator* allocator = nullptr;
  check(api::GetAllocatorWithDefaultOptions(&allocator), "read the session's names");
  size_t count = 0;
  check(count_of(session, &count), "read the session's names");
  std::vector<std::string> names(count);
  for (size_t i = 0; i < count; i++) {
    char* text = nullptr;
    check(name_of(session, i, allocator, &text), "read the session's names");
    names[i] = text;
    check(api::AllocatorFree(allocator, text), "read the session's names");
  }
  return names;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

Session::Session(const Environment& environment, const void* model, size_t bytes,
                 SessionConfig config, std::shared_ptr<WorkspacePool> pool)
    : config_(std::move(config)), pool_(std::move(pool)) {
  const WorkspaceScope scope(pool_.get());
  const auto options = make_options(config_, environment);
  OrtSession* made = nullptr;
  check(api::CreateSessionFromArray(environment.env(), model, bytes, options.get(), &made),
        "load session " + config_.name);
  session_.reset(made);
  inputs_ = read_names(made, api::SessionGetInputCount, api::SessionGetInputName);
  outputs_ = read_names(made, api::SessionGetOutputCount, api::SessionGetOutputName);
}

Session::~Session() {
  if (session_ && !config_.profile_prefix.empty()) {
    OrtAllocator* allocator = nullptr;
    char* file = nullptr;
    if (OrtStatus* status = api::GetAllocatorWithDefaultOptions(&allocator)) {
      api::ReleaseStatus(status);
    } else if (OrtStatus* ended = api::SessionEndProfiling(session_.get(), allocator, &file)) {
      api::ReleaseStatus(ended);  // the profile is lost; the session still has to go
    } else if (OrtStatus* freed = api::AllocatorFree(allocator, file)) {
      api::ReleaseStatus(freed);
    }
  }
  session_.reset();
  pool_->trim();
}

Instance::Instance(std::shared_ptr<Session> session, std::vector<BoundTensor> inputs,
                   std::vector<BoundTensor> outputs)
    : session_(std::move(session)) {
  OrtIoBinding* made = nullptr;
  check(api::CreateIoBinding(session_->session_.get(), &made), "bind session " + name());
  binding_.reset(made);
  bind(session_->inputs(), inputs, true);
  bind(session_->outputs(), outputs, false);
}

void Instance::bind(const std::vector<std::string>& names, std::vector<BoundTensor>& tensors,
                    bool input) {
  static OrtMemoryInfo* const cpu = [] {
    OrtMemoryInfo* info = nullptr;
    check(api::CreateMemoryInfo("Cpu", 0, 0, 0, &info), "create memory info");
    return info;
  }();
  const std::string what = "bind session " + name();
  const char* kind = input ? "input" : "output";
  const auto refuse = [&](const std::string& message) {
    throw EngineError("INVALID_ARGUMENT", what + ": " + message, what);
  };
  std::vector<std::string> missing = names;
  for (auto& tensor : tensors) {
    const auto place = std::find(missing.begin(), missing.end(), tensor.name);
    if (place == missing.end())
      refuse(std::string("there is no free ") + kind + " " + tensor.name + "; the model has " +
             list(names));
    missing.erase(place);
    const size_t element = size_of(tensor.dtype);
    if (element == 0) refuse(tensor.name + " is of strings, which have no memory of their own");
    size_t bytes = element;
    for (int64_t dim : tensor.dims) {
      if (dim < 0) refuse(tensor.name + " has a negative dimension");
      bytes *= static_cast<size_t>(dim);
    }
    if (tensor.offset > tensor.buffer->bytes() || bytes > tensor.buffer->bytes() - tensor.offset)
      refuse(tensor.name + " needs " + std::to_string(bytes) + " bytes from byte " +
             std::to_string(tensor.offset) + " of a buffer of " +
             std::to_string(tensor.buffer->bytes()));
    if (tensor.offset % element != 0)
      refuse(tensor.name + ": byteOffset " + std::to_string(tensor.offset) +
             " is not a multiple of the element size " + std::to_string(element));
    OrtValue* value = nullptr;
    check(api::CreateTensorWithDataAsOrtValue(
              cpu, static_cast<uint8_t*>(tensor.buffer->data()) + tensor.offset, bytes,
              tensor.dims.data(), tensor.dims.size(), static_cast<int>(tensor.dtype), &value),
          what + ", " + kind + " " + tensor.name);
    values_.emplace_back(value);
    check(input ? api::BindInput(binding_.get(), tensor.name.c_str(), value)
                : api::BindOutput(binding_.get(), tensor.name.c_str(), value),
          what + ", " + kind + " " + tensor.name);
    memory_.push_back(std::move(tensor.buffer));
  }
  if (!missing.empty()) refuse(std::string(kind) + " not bound: " + list(missing));
}

void Instance::run(const OrtRunOptions* options) {
  const WorkspaceScope scope(session_->pool_.get());
  check(api::RunWithBinding(session_->session_.get(), options, binding_.get()),
        "run session " + name());
}

}  // namespace dsjs::ort
