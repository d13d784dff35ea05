// What every part of the binding needs: errors, buffers, regions.
#pragma once
#include <napi.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <string>

#include "aio/swap_file.h"
#include "comm/communicator.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/memory.h"
#include "engine/queue.h"

namespace dsjs::binding {

// ---------------------------------------------------------------- errors

// The one converter. A NativeError: Error with `code`, and `operation`, `rank`, `peer` where known.
// Its stack is that of the JavaScript caller. Anything but an EngineError gets the code INTERNAL;
// bad_alloc is OUT_OF_MEMORY.
Napi::Error to_js_error(Napi::Env env, std::exception_ptr error);

// Runs the body of a binding function; what C++ throws arrives as a NativeError.
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, std::current_exception());
  }
}

// ---------------------------------------------------------------- classes

// Constructors are per environment: every worker thread loads its own.
void keep_constructor(Napi::Env env, const std::string& name, Napi::Function constructor);
Napi::Function constructor(Napi::Env env, const std::string& name);

// Handles carry a type tag, so that a foreign object in their place is an error and not a crash.
void tag(Napi::Object object, const napi_type_tag& type);
bool has_tag(const Napi::Value& value, const napi_type_tag& type);

// ---------------------------------------------------------------- arguments (throw
// INVALID_ARGUMENT)

double number_field(Napi::Object object, const char* name);
double whole_number(const Napi::Value& value, const char* name, double least, double most);

// A whole number from `least` to the largest that the type and a JavaScript number hold exactly.
// All integers come in through here: none is ever cut to fit.
template <class Integer>
Integer integer_arg(const Napi::Value& value, const char* name, Integer least = 0) {
  constexpr double kSafe = 9007199254740991.0;  // 2^53 - 1
  const double most = static_cast<double>(std::numeric_limits<Integer>::max());
  return static_cast<Integer>(
      whole_number(value, name, static_cast<double>(least), std::min(most, kSafe)));
}
template <class Integer>
Integer integer_field(Napi::Object object, const char* name) {
  return integer_arg<Integer>(object.Get(name), name);
}
inline size_t size_arg(const Napi::Value& value, const char* name) {
  return integer_arg<size_t>(value, name);
}
inline size_t size_field(Napi::Object object, const char* name) {
  return integer_field<size_t>(object, name);
}
std::string string_field(Napi::Object object, const char* name);
DType dtype_field(Napi::Object object, const char* name);
// "sum", "max", "min"; absent is sum.
ReduceOp reduce_op_arg(const Napi::Value& value);

// ---------------------------------------------------------------- buffers

// Defines the class NativeBuffer in this environment.
void register_buffer(Napi::Env env);

// A NativeBuffer handle over engine memory. `view()` is one external ArrayBuffer, made once.
Napi::Object wrap_buffer(Napi::Env env, std::shared_ptr<Buffer> buffer);
// Throws INVALID_ARGUMENT for another object and DISPOSED for a disposed buffer.
std::shared_ptr<Buffer> unwrap_buffer(const Napi::Value& value);
// The buffer whose view this is; null for any other ArrayBuffer, and after the buffer's dispose().
std::shared_ptr<Buffer> viewed_buffer(Napi::ArrayBuffer array);

// Bytes that JavaScript lends: a Uint8Array (any other typed array too), or
// { buffer: NativeBuffer, byteOffset, bytes }.
struct Bytes {
  uint8_t* data = nullptr;
  size_t size = 0;
  // Keeps engine memory alive.
  std::shared_ptr<Buffer> buffer;
  // Keeps a typed array alive; released on the JavaScript thread.
  Napi::ObjectReference array;
};
// Good for as long as JavaScript does not run.
Bytes bytes_arg(const Napi::Value& value, const char* name);
// For asynchronous work: good until it is destroyed, whatever JavaScript disposes of meanwhile.
Bytes pinned_bytes_arg(const Napi::Value& value, const char* name);

// contract.ts Region: a stretch of a buffer, checked against its size and alignment.
struct RegionArg {
  std::shared_ptr<Buffer> buffer;
  void* data = nullptr;
  size_t count = 0;
  DType dtype = DType::kFloat32;
  size_t bytes() const { return count * size_of(dtype); }
};
RegionArg region_arg(const Napi::Value& value, const char* name);

// ---------------------------------------------------------------- swap files

// Defines the class SwapFile in this environment.
void register_swap_file(Napi::Env env);

// new SwapFile(path, bytes, options), as contract.ts createSwapFile.
Napi::Object make_swap_file(const Napi::CallbackInfo& info);
// Throws INVALID_ARGUMENT for another object and DISPOSED for a disposed file.
std::shared_ptr<aio::SwapFile> unwrap_swap_file(const Napi::Value& value);
bool is_swap_file(const Napi::Value& value);

// ---------------------------------------------------------------- files

// writeFile(path, groups) of contract.ts' NativeEngine, whose works are of `queues`. Throws
// INVALID_ARGUMENT, DISPOSED.
Napi::Value write_file_by_groups(const Napi::CallbackInfo& call, Queues& queues);

// ---------------------------------------------------------------- communicators

// For an engine: a communicator of its own over the ranks of a NativeCommunicator, so that its comm
// queue and the JavaScript thread never use one from two threads. A collective call. Throws
// INVALID_ARGUMENT for another object, DISPOSED for a disposed communicator.
std::shared_ptr<Communicator> unwrap_communicator(const Napi::Value& value);

// CommStats[] of contract.ts.
Napi::Value stats_value(Napi::Env env, const std::vector<CommStat>& cells);

}  // namespace dsjs::binding
