// Element types that cross the engine. Numbers are ONNX's TensorProto.DataType.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace dsjs {

enum class DType : int32_t {
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kFloat64 = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBFloat16 = 16,
};

// Bytes of one element; 0 for strings.
constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::kFloat32:
    case DType::kInt32:
    case DType::kUint32:
      return 4;
    case DType::kUint8:
    case DType::kInt8:
    case DType::kBool:
      return 1;
    case DType::kUint16:
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt64:
    case DType::kUint64:
    case DType::kFloat64:
      return 8;
    case DType::kString:
      return 0;
  }
  return 0;
}

// The names of ir.ts: "float32", "bfloat16", "int64", ...
const char* dtype_name(DType type);
// Throws EngineError INVALID_ARGUMENT for an unknown name.
DType dtype_from_name(const std::string& name);

}  // namespace dsjs
