// Finds ONNX Runtime's function table in the library that onnxruntime-node ships.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ort/ort_api.h"

namespace dsjs::ort {

// Opens the library (the copy already in the process when there is one) and sets `api::table`. Once
// per process; a second call with another path throws ORT_LIBRARY, because a process has one
// runtime. Throws ORT_LIBRARY when the file cannot be opened or is not an ONNX Runtime of
// version 1.20 or newer.
void load_library(const std::string& path);

// "1.30.0"; load_library must have been called.
const std::string& library_version();

// Throws ORT_FAILED with the runtime's own text when `status` is an error, and frees it.
void check(OrtStatus* status, std::string_view operation);

// The dimensions of a tensor's type; -1 where they are not known.
std::vector<int64_t> dimensions(const OrtTensorTypeAndShapeInfo* info);
// "[2, 3]"
std::string dimensions_text(const std::vector<int64_t>& dims);

// Owners of the runtime's objects: `Owned<OrtValue> value = ...;` releases by itself.
struct Releaser {
  void operator()(OrtEnv* p) const { api::ReleaseEnv(p); }
  void operator()(OrtThreadingOptions* p) const { api::ReleaseThreadingOptions(p); }
  void operator()(OrtSessionOptions* p) const { api::ReleaseSessionOptions(p); }
  void operator()(OrtSession* p) const { api::ReleaseSession(p); }
  void operator()(OrtRunOptions* p) const { api::ReleaseRunOptions(p); }
  void operator()(OrtIoBinding* p) const { api::ReleaseIoBinding(p); }
  void operator()(OrtValue* p) const { api::ReleaseValue(p); }
  void operator()(OrtTypeInfo* p) const { api::ReleaseTypeInfo(p); }
  void operator()(OrtMemoryInfo* p) const { api::ReleaseMemoryInfo(p); }
  void operator()(OrtTensorTypeAndShapeInfo* p) const { api::ReleaseTensorTypeAndShapeInfo(p); }
};

template <class T>
using Owned = std::unique_ptr<T, Releaser>;

}  // namespace dsjs::ort
