// What works on any float type: blocks go through fp32 (or fp64) on the stack.
#include "kernels/elementwise.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/half.h"

namespace dsjs {
namespace {

constexpr size_t kBlock = 2048;

template <class T>
const T* at(const void* base, size_t index, size_t element) {
  return reinterpret_cast<const T*>(static_cast<const char*>(base) + index * element);
}

template <class T>
T* at(void* base, size_t index, size_t element) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + index * element);
}

void axpby_wide(const void* source, DType source_type, void* target, DType target_type, double b,
                double a, size_t begin, size_t end) {
  double s[kBlock], t[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    void* out = at<void>(target, i, size_of(target_type));
    convert_floats(at<void>(source, i, size_of(source_type)), source_type, s, DType::kFloat64, n);
    convert_floats(out, target_type, t, DType::kFloat64, n);
    for (size_t k = 0; k < n; ++k) t[k] = (a == 0 ? 0 : a * t[k]) + b * s[k];
    convert_floats(t, DType::kFloat64, out, target_type, n);
  }
}

}  // namespace

void check_indices(const int64_t* indices, size_t count, size_t V) {
  const auto rows = static_cast<int64_t>(V);
  for (size_t t = 0; t < count; ++t)
    if (indices[t] < -rows || indices[t] >= rows)
      throw EngineError("INVALID_ARGUMENT", "embedding gradient: index " +
                                                std::to_string(indices[t]) + " at position " +
                                                std::to_string(t) + " is outside the " +
                                                std::to_string(V) + " rows of the table");
}

void fill_floats(void* target, DType type, double value, size_t begin, size_t end) {
  if (type == DType::kFloat32)
    return elementwise_kernels().fill(static_cast<float*>(target), static_cast<float>(value), begin,
                                      end);
  if (type == DType::kFloat64) {
    std::fill(static_cast<double*>(target) + begin, static_cast<double*>(target) + end, value);
    return;
  }
  uint16_t pattern;
  convert_floats(&value, DType::kFloat64, &pattern, type, 1);
  std::fill(static_cast<uint16_t*>(target) + begin, static_cast<uint16_t*>(target) + end, pattern);
}

void axpby_floats(const void* source, DType source_type, void* target, DType target_type, double b,
                  double a, size_t begin, size_t end) {
  const auto scale_b = static_cast<float>(b), scale_a = static_cast<float>(a);
  if (source_type == DType::kFloat32 && target_type == DType::kFloat32)
    return elementwise_kernels().axpby(static_cast<const float*>(source),
                                       static_cast<float*>(target), scale_b, scale_a, begin, end);
  if (source_type == DType::kFloat64 || target_type == DType::kFloat64)
    return axpby_wide(source, source_type, target, target_type, b, a, begin, end);
  float s[kBlock], t[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    void* out = at<void>(target, i, size_of(target_type));
    convert_floats(at<void>(source, i, size_of(source_type)), source_type, s, DType::kFloat32, n);
    if (a != 0) convert_floats(out, target_type, t, DType::kFloat32, n);
    elementwise_kernels().axpby(s, t, scale_b, scale_a, 0, n);
    convert_floats(t, DType::kFloat32, out, target_type, n);
  }
}

}  // namespace dsjs
