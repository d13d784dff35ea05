#include "ort/library.h"

#include <dlfcn.h>

#include <mutex>

#include "core/error.h"

namespace dsjs::ort {

namespace api {
const void* const* table = nullptr;
}

namespace {

std::string& loaded_path() {
  static std::string path;
  return path;
}

std::string& version_text() {
  static std::string text;
  return text;
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw EngineError("ORT_LIBRARY", "cannot use " + path + " as ONNX Runtime: " + why,
                    "load ONNX Runtime");
}

}  // namespace

void load_library(const std::string& path) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (api::table) {
    if (path != loaded_path()) refuse(path, "this process already runs " + loaded_path());
    return;
  }
  // The handle is never closed: the runtime keeps threads and globals until the process ends.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (!handle) handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* reason = dlerror();
    refuse(path, reason ? reason : "it cannot be opened");
  }
  const auto get_base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (!get_base) refuse(path, "it does not export OrtGetApiBase");
  const OrtApiBase* base = get_base();
  const void* const* found = base->GetApi(api::kApiVersion);
  if (!found)
    refuse(path, std::string("version ") + base->GetVersionString() + " has no C API " +
                     std::to_string(api::kApiVersion));
  version_text() = base->GetVersionString();
  loaded_path() = path;
  api::table = found;
}

const std::string& library_version() { return version_text(); }

void check(OrtStatus* status, std::string_view operation) {
  if (!status) return;
  const std::string message = api::GetErrorMessage(status);
  api::ReleaseStatus(status);
  const std::string name(operation);
  throw EngineError("ORT_FAILED", name + ": " + message, name);
}

std::vector<int64_t> dimensions(const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api::GetDimensionsCount(info, &rank), "read a shape");
  std::vector<int64_t> dims(rank);
  check(api::GetDimensions(info, dims.data(), rank), "read a shape");
  return dims;
}

std::string dimensions_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); i++) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

}  // namespace dsjs::ort
