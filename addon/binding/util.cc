#include "util.h"

#include <cmath>
#include <map>
#include <new>

namespace dsjs::binding {
namespace {

// Everything this library keeps for one environment.
struct EnvironmentData {
  std::map<std::string, Napi::FunctionReference> constructors;
};

EnvironmentData& environment_data(Napi::Env env) {
  auto* data = env.GetInstanceData<EnvironmentData>();
  if (data == nullptr) {
    data = new EnvironmentData;
    env.SetInstanceData(data);  // deleted with the environment
  }
  return *data;
}

[[noreturn]] void invalid(const std::string& message) {
  throw EngineError("INVALID_ARGUMENT", message);
}

Napi::Object object_arg(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) invalid(std::string(name) + " must be an object");
  return value.As<Napi::Object>();
}

Napi::Error make_error(Napi::Env env, const std::string& code, const std::string& message,
                       const std::string& operation = "", int rank = -1, int peer = -1) {
  Napi::Error error = Napi::Error::New(env, message);
  Napi::Object fields = error.Value();
  fields.DefineProperty(Napi::PropertyDescriptor::Value(
      "name", Napi::String::New(env, "NativeError"),
      static_cast<napi_property_attributes>(napi_writable | napi_configurable)));
  fields.Set("code", code);
  if (!operation.empty()) fields.Set("operation", operation);
  if (rank >= 0) fields.Set("rank", rank);
  if (peer >= 0) fields.Set("peer", peer);
  return error;
}

}  // namespace

Napi::Error to_js_error(Napi::Env env, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const EngineError& e) {
    return make_error(env, e.code(), e.what(), e.operation(), e.rank(), e.peer());
  } catch (const Napi::Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return make_error(env, "OUT_OF_MEMORY", "the engine ran out of memory for its own tables");
  } catch (const std::exception& e) {
    return make_error(env, "INTERNAL", std::string("internal: ") + e.what());
  } catch (...) {
    return make_error(env, "INTERNAL", "internal: an unknown exception");
  }
}

void keep_constructor(Napi::Env env, const std::string& name, Napi::Function constructor) {
  environment_data(env).constructors[name] = Napi::Persistent(constructor);
}

Napi::Function constructor(Napi::Env env, const std::string& name) {
  return environment_data(env).constructors.at(name).Value();
}

void tag(Napi::Object object, const napi_type_tag& type) { object.TypeTag(&type); }

bool has_tag(const Napi::Value& value, const napi_type_tag& type) {
  return value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&type);
}

double number_field(Napi::Object object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) invalid(std::string(name) + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

double whole_number(const Napi::Value& value, const char* name, double least, double most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (number >= least && number <= most && std::floor(number) == number) return number;
  const auto text = [](double bound) { return std::to_string(static_cast<int64_t>(bound)); };
  invalid(std::string(name) + " must be a whole number from " + text(least) + " to " + text(most));
}

std::string string_field(Napi::Object object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsString()) invalid(std::string(name) + " must be a string");
  return value.As<Napi::String>();
}

DType dtype_field(Napi::Object object, const char* name) {
  return dtype_from_name(string_field(object, name));
}

ReduceOp reduce_op_arg(const Napi::Value& value) {
  if (value.IsUndefined()) return ReduceOp::kSum;
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (name == "sum") return ReduceOp::kSum;
  if (name == "max") return ReduceOp::kMax;
  if (name == "min") return ReduceOp::kMin;
  invalid("the reduction must be \"sum\", \"max\" or \"min\"");
}

Bytes bytes_arg(const Napi::Value& value, const char* name) {
  Bytes bytes;
  if (value.IsTypedArray()) {
    const auto array = value.As<Napi::TypedArray>();
    bytes.data = static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    bytes.size = array.ByteLength();
    return bytes;
  }
  const Napi::Object range = object_arg(value, name);
  bytes.buffer = unwrap_buffer(range.Get("buffer"));
  const size_t offset = size_field(range, "byteOffset");
  bytes.size = size_field(range, "bytes");
  if (offset > bytes.buffer->bytes() || bytes.size > bytes.buffer->bytes() - offset)
    invalid(std::string(name) + ": bytes [" + std::to_string(offset) + ", +" +
            std::to_string(bytes.size) + ") of a buffer of " +
            std::to_string(bytes.buffer->bytes()));
  bytes.data = static_cast<uint8_t*>(bytes.buffer->data()) + offset;
  return bytes;
}

Bytes pinned_bytes_arg(const Napi::Value& value, const char* name) {
  Bytes bytes = bytes_arg(value, name);
  if (!value.IsTypedArray()) return bytes;
  bytes.array = Napi::Persistent(value.As<Napi::Object>());
  bytes.buffer = viewed_buffer(value.As<Napi::TypedArray>().ArrayBuffer());
  return bytes;
}

RegionArg region_arg(const Napi::Value& value, const char* name) {
  const Napi::Object fields = object_arg(value, name);
  RegionArg region;
  region.buffer = unwrap_buffer(fields.Get("buffer"));
  region.dtype = dtype_field(fields, "dtype");
  region.count = size_field(fields, "count");
  const size_t offset = size_field(fields, "byteOffset");
  const size_t element = size_of(region.dtype);
  if (element == 0) invalid(std::string(name) + ": strings have no region");
  if (offset % element != 0)
    invalid(std::string(name) + ": byteOffset " + std::to_string(offset) +
            " is not a multiple of the element size " + std::to_string(element));
  if (offset > region.buffer->bytes() || region.count > (region.buffer->bytes() - offset) / element)
    invalid(std::string(name) + ": " + std::to_string(region.count) + " elements from byte " +
            std::to_string(offset) + " of a buffer of " + std::to_string(region.buffer->bytes()) +
            " bytes");
  region.data = static_cast<uint8_t*>(region.buffer->data()) + offset;
  return region;
}

}  // namespace dsjs::binding
