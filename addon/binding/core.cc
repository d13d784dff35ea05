// info, convert, systemLimits, bindCores.
#include "core/half.h"
#include "core/isa.h"
#include "core/limits.h"
#include "register.h"
#include "util.h"

namespace dsjs::binding {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

#if defined(__APPLE__)
#define DSJS_SYSTEM "darwin"
#else
#define DSJS_SYSTEM "linux"
#endif
#if defined(__aarch64__)
constexpr const char* kPlatform = DSJS_SYSTEM "-arm64";
#else
constexpr const char* kPlatform = DSJS_SYSTEM "-x64";
#endif

Napi::Value info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&] {
    const std::vector<std::string> names = usable_isa_names();
    Napi::Array isa = Napi::Array::New(env, names.size());
    for (uint32_t index = 0; index < names.size(); ++index) isa[index] = names[index];
    Napi::Object result = Napi::Object::New(env);
    result["version"] = DSJS_VERSION;
    result["buildId"] = DSJS_BUILD_ID;
    result["platform"] = kPlatform;
    result["compiler"] = kCompiler;
    result["isa"] = isa;
    return result;
  });
}

// convert(source, from, target, to)
void convert(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const Bytes source = bytes_arg(call[0], "source");
    const Bytes target = bytes_arg(call[2], "target");
    const DType from = dtype_from_name(call[1].ToString());
    const DType to = dtype_from_name(call[3].ToString());
    const size_t count = size_of(from) == 0 ? 0 : source.size / size_of(from);
    if (count * size_of(from) != source.size || count * size_of(to) != target.size)
      throw EngineError("INVALID_ARGUMENT",
                        std::to_string(source.size) + " bytes of " + dtype_name(from) +
                            " do not fill " + std::to_string(target.size) + " bytes of " +
                            dtype_name(to),
                        "convert");
    // The kernels want aligned elements; a view into a file may start anywhere.
    if (reinterpret_cast<uintptr_t>(source.data) % size_of(from) != 0 ||
        reinterpret_cast<uintptr_t>(target.data) % size_of(to) != 0)
      throw EngineError("INVALID_ARGUMENT", "source and target must start at whole elements",
                        "convert");
    convert_floats(source.data, from, target.data, to, count);
  });
}

Napi::Value limits(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&] {
    const SystemLimits now = system_limits();
    Napi::Object result = Napi::Object::New(env);
    result["memoryAvailable"] = Napi::Number::New(env, static_cast<double>(now.memory_available));
    result["memoryLimit"] = Napi::Number::New(env, static_cast<double>(now.memory_limit));
    result["cores"] = Napi::Number::New(env, now.cores);
    return result;
  });
}

// bindCores(cores)
void bind(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    if (!call[0].IsArray())
      throw EngineError("INVALID_ARGUMENT", "cores must be an array of numbers", "bindCores");
    const Napi::Array list = call[0].As<Napi::Array>();
    std::vector<int> cores;
    for (uint32_t index = 0; index < list.Length(); ++index)
      cores.push_back(integer_arg<int>(list.Get(index), "core"));
    bind_cores(cores);
  });
}

}  // namespace

void register_core(Napi::Env env, Napi::Object exports) {
  register_buffer(env);
  register_swap_file(env);
  exports["info"] = Napi::Function::New(env, info, "info");
  exports["convert"] = Napi::Function::New(env, convert, "convert");
  exports["systemLimits"] = Napi::Function::New(env, limits, "systemLimits");
  exports["bindCores"] = Napi::Function::New(env, bind, "bindCores");
}

}  // namespace dsjs::binding
