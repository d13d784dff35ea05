#include "core/dtype.h"

#include <array>

#include "core/error.h"

namespace dsjs {
namespace {

struct Named {
  DType type;
  const char* name;
};

constexpr std::array kNames = {
    Named{DType::kFloat32, "float32"}, Named{DType::kUint8, "uint8"},
    Named{DType::kInt8, "int8"},       Named{DType::kUint16, "uint16"},
    Named{DType::kInt16, "int16"},     Named{DType::kInt32, "int32"},
    Named{DType::kInt64, "int64"},     Named{DType::kString, "string"},
    Named{DType::kBool, "bool"},       Named{DType::kFloat16, "float16"},
    Named{DType::kFloat64, "float64"}, Named{DType::kUint32, "uint32"},
    Named{DType::kUint64, "uint64"},   Named{DType::kBFloat16, "bfloat16"},
};

}  // namespace

const char* dtype_name(DType type) {
  for (const Named& entry : kNames)
    if (entry.type == type) return entry.name;
  return "unknown";
}

DType dtype_from_name(const std::string& name) {
  for (const Named& entry : kNames)
    if (name == entry.name) return entry.type;
  throw EngineError("INVALID_ARGUMENT", "\"" + name + "\" is not an element type");
}

}  // namespace dsjs
