#include "ort/session.h"

#include <algorithm>
#include <mutex>

#include "core/error.h"
#include "ort/custom_op.h"
#include "ort/provider.h"

namespace dsjs::ort {
namespace {

Owned<OrtSessionOptions> make_options(const SessionConfig& config, const Environment& environment) {
  OrtSessionOptions* made = nullptr;
  const std::string what = "configure session " + config.name;
  check(api::CreateSessionOptions(&made), what);
  Owned<OrtSessionOptions> options(made);
  // Somebody else's environment may print what ours does not; errors come as exceptions.
  check(api::SetSessionLogSeverityLevel(made, kLogFatal), what);
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
  if (!config.provider.empty()) append_provider(made, config.provider);
  if (!config.profile_prefix.empty())
    check(api::EnableProfiling(made, config.profile_prefix.c_str()), what);
  check(api::AddCustomOpDomain(made, environment.operators()), what);
  return options;
}

template <class Count, class Name, class Type>
std::vector<ModelPort> read_ports(const OrtSession* session, Count count_of, Name name_of,
                                  Type type_of) {
  const char* what = "read the session's inputs and outputs";
  OrtAllocator* allocator = nullptr;
  check(api::GetAllocatorWithDefaultOptions(&allocator), what);
  size_t count = 0;
  check(count_of(session, &count), what);
  std::vector<ModelPort> ports(count);
  for (size_t i = 0; i < count; i++) {
    char* text = nullptr;
    check(name_of(session, i, allocator, &text), what);
    ports[i].name = text;
    check(api::AllocatorFree(allocator, text), what);
    OrtTypeInfo* type = nullptr;
    check(type_of(session, i, &type), what);
    const Owned<OrtTypeInfo> owned(type);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api::CastTypeInfoToTensorInfo(type, &tensor), what);
    if (!tensor)
      throw EngineError("INVALID_ARGUMENT", ports[i].name + " is not a tensor", "loadSession");
    int dtype = 0;
    check(api::GetTensorElementType(tensor, &dtype), what);
    ports[i].dtype = static_cast<DType>(dtype);
    ports[i].dims = dimensions(tensor);
  }
  return ports;
}

std::string list(const std::vector<ModelPort>& ports) {
  std::string text;
  for (const auto& port : ports) text += (text.empty() ? "" : ", ") + port.name;
  return text;
}

// An open dimension of the model takes any number. A model may also leave the rank open: then the
// runtime reports no dimensions, and checks when it runs.
bool fits(const std::vector<int64_t>& model, const std::vector<int64_t>& bound) {
  if (model.empty()) return true;
  return std::equal(model.begin(), model.end(), bound.begin(), bound.end(),
                    [](int64_t m, int64_t b) { return m < 0 || m == b; });
}

}  // namespace

Session::Session(const Environment& environment, const void* model, size_t bytes,
                 SessionConfig config, std::shared_ptr<WorkspacePool> pool)
    : config_(std::move(config)), pool_(std::move(pool)) {
  const WorkspaceScope scope(pool_.get());
  if (!config_.provider.empty()) require_provider(environment, config_.provider);
  const DeviceTurn turn(config_.provider);
  const auto options = make_options(config_, environment);
  OrtSession* made = nullptr;
  {
    // ONNX Runtime enters a custom domain into a table of the whole process, check first and add
    // then: two engines that load their first sessions at once would both add it, and one would
    // fail.
    static std::mutex loading;
    const std::lock_guard lock(loading);
    check(api::CreateSessionFromArray(environment.env(), model, bytes, options.get(), &made),
          "load session " + config_.name);
  }
  session_.reset(made);
  inputs_ = read_ports(made, api::SessionGetInputCount, api::SessionGetInputName,
                       api::SessionGetInputTypeInfo);
  outputs_ = read_ports(made, api::SessionGetOutputCount, api::SessionGetOutputName,
                        api::SessionGetOutputTypeInfo);
}

Session::~Session() {
  const DeviceTurn turn(config_.provider);
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
  inputs_ = values_of(session_->inputs(), inputs, true);
  outputs_ = values_of(session_->outputs(), outputs, false);
  if (session_->config_.provider.empty()) bind();
}

void Instance::bind() {
  const std::string what = "bind session " + name();
  OrtIoBinding* made = nullptr;
  check(api::CreateIoBinding(session_->session_.get(), &made), what);
  binding_.reset(made);
  for (size_t i = 0; i < inputs_.names.size(); i++)
    check(api::BindInput(made, inputs_.names[i].c_str(), inputs_.values[i].get()),
          what + ", input " + inputs_.names[i]);
  for (size_t i = 0; i < outputs_.names.size(); i++)
    check(api::BindOutput(made, outputs_.names[i].c_str(), outputs_.values[i].get()),
          what + ", output " + outputs_.names[i]);
}

Instance::Values Instance::values_of(std::vector<ModelPort> missing,
                                     std::vector<BoundTensor>& tensors, bool input) {
  Values made;
  const std::string names = list(missing);
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
  for (auto& tensor : tensors) {
    const auto place = std::find_if(missing.begin(), missing.end(), [&](const ModelPort& port) {
      return port.name == tensor.name;
    });
    if (place == missing.end())
      refuse(std::string("there is no free ") + kind + " " + tensor.name + "; the model has " +
             names);
    const ModelPort port = *place;
    missing.erase(place);
    if (port.dtype != tensor.dtype)
      refuse(tensor.name + " is bound as " + dtype_name(tensor.dtype) + ", the model's is " +
             dtype_name(port.dtype));
    if (!fits(port.dims, tensor.dims))
      refuse(tensor.name + " is bound as " + dimensions_text(tensor.dims) + ", the model's is " +
             dimensions_text(port.dims));
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
    made.values.emplace_back(value);
    made.names.push_back(std::move(tensor.name));
    memory_.push_back(std::move(tensor.buffer));
  }
  if (!missing.empty()) refuse(std::string(kind) + " not bound: " + list(missing));
  return made;
}

void Instance::run(const OrtRunOptions* options) {
  const WorkspaceScope scope(session_->pool_.get());
  const RunThreads threads(session_->config_.threads);
  if (!binding_) return run_on_provider();
  check(api::RunWithBinding(session_->session_.get(), options, binding_.get()),
        "run session " + name());
}

void Instance::run_on_provider() {
  const auto names_of = [](const Values& bound) {
    std::vector<const char*> names;
    for (const auto& name : bound.names) names.push_back(name.c_str());
    return names;
  };
  const auto inputs = names_of(inputs_), outputs = names_of(outputs_);
  std::vector<const OrtValue*> given;
  for (const auto& value : inputs_.values) given.push_back(value.get());
  // Values that exist are filled, not replaced.
  std::vector<OrtValue*> filled;
  for (const auto& value : outputs_.values) filled.push_back(value.get());
  const DeviceTurn turn(session_->config_.provider);
  check(api::Run(session_->session_.get(), nullptr, inputs.data(), given.data(), given.size(),
                 outputs.data(), filled.size(), filled.data()),
        "run session " + name());
}

}  // namespace dsjs::ort
