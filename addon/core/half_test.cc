// Every 16-bit value and the neighbourhood of every rounding boundary, on every instruction set.
#include "core/half.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/testing.h"

using namespace dsjs;

namespace {

struct Format {
  const char* name;
  DType type;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
  void (*HalfKernels::*widen_all)(const uint16_t*, float*, size_t);
  void (*HalfKernels::*narrow_all)(const float*, uint16_t*, size_t);
};

const Format kFormats[] = {
    {"bf16", DType::kBFloat16, bf16_to_float, float_to_bf16, &HalfKernels::bf16_to_float,
     &HalfKernels::float_to_bf16},
    {"fp16", DType::kFloat16, fp16_to_float, float_to_fp16, &HalfKernels::fp16_to_float,
     &HalfKernels::float_to_fp16},
};

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

std::vector<uint16_t> all_codes() {
  std::vector<uint16_t> codes(65536);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint16_t>(i);
  return codes;
}

// Around every midpoint between neighbours: the midpoint, and one fp32 step to either side.
std::vector<float> boundaries(const Format& format) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x7fff; ++code) {
    const float low = format.widen(static_cast<uint16_t>(code));
    const float high = format.widen(static_cast<uint16_t>(code + 1));
    if (!std::isfinite(low) || !std::isfinite(high)) continue;
    const float middle = static_cast<float>((double{low} + high) / 2);
    for (float v :
         {middle, std::nextafterf(middle, -INFINITY), std::nextafterf(middle, INFINITY)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  for (float v :
       {65503.0f, 65519.0f, 65520.0f, 65536.0f, 3.4e38f, INFINITY, NAN, 1e-45f, 2.9e-8f, 3e-8f})
    for (float sign : {1.0f, -1.0f}) values.push_back(sign * v);
  return values;
}

// Nearest by search: no code is closer, and at a tie the chosen one is even.
bool is_nearest(const Format& format, float value, uint16_t code) {
  if (std::isnan(value)) return std::isnan(format.widen(code));
  const float chosen = format.widen(code);
  if (std::signbit(chosen) != std::signbit(value)) return false;
  const uint16_t magnitude = code & 0x7fff;
  // Infinity stands for the next number after the largest.
  const auto position = [&](uint16_t at) {
    const double v = std::fabs(double{format.widen(at)});
    return std::isinf(v) ? (format.type == DType::kFloat16 ? 0x1p16 : 0x1p128) : v;
  };
  if (std::isinf(value)) return std::isinf(chosen);
  const double target = std::fabs(double{value});
  const double distance = std::fabs(position(magnitude) - target);
  const bool odd = magnitude & 1;
  const auto not_better = [&](uint16_t other) {
    const double d = std::fabs(position(other) - target);
    return d > distance || (d == distance && !odd);
  };
  return (magnitude == 0 || not_better(magnitude - 1)) &&
         (std::isinf(chosen) || not_better(magnitude + 1));
}

void test_scalar(const Format& format) {
  int wrong = 0;
  for (float value : boundaries(format))
    if (!is_nearest(format, value, format.narrow(value))) ++wrong;
  for (uint16_t code : all_codes()) {
    const float value = format.widen(code);
    if (!std::isnan(value) && format.narrow(value) != code) ++wrong;
  }
  CHECK_MESSAGE(wrong == 0, std::string(format.name) + " scalar: " + std::to_string(wrong));
}

void test_vector(const Format& format, Isa isa) {
  const HalfKernels& kernels = half_kernels(isa);
  const std::vector<uint16_t> codes = all_codes();
  const std::vector<float> values = boundaries(format);
  std::vector<float> wide(codes.size());
  std::vector<uint16_t> narrow(values.size());
  (kernels.*format.widen_all)(codes.data(), wide.data(), codes.size());
  (kernels.*format.narrow_all)(values.data(), narrow.data(), values.size());
  int wrong = 0;
  for (size_t i = 0; i < codes.size(); ++i) wrong += !same(wide[i], format.widen(codes[i]));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t want = format.narrow(values[i]);
    wrong += std::isnan(values[i]) ? !std::isnan(format.widen(narrow[i])) : narrow[i] != want;
  }
  CHECK_MESSAGE(wrong == 0, std::string(isa_name(isa)) + " " + format.name + ": " +
                                std::to_string(wrong) + " values differ from the scalar form");
  // Counts that fill no vector, and nothing written behind the end.
  for (size_t count : {size_t{0}, size_t{1}, size_t{7}, size_t{17}}) {
    std::vector<uint16_t> out(count + 1, 0x1234);
    (kernels.*format.narrow_all)(values.data(), out.data(), count);
    bool ok = out[count] == 0x1234;
    for (size_t i = 0; i < count; ++i) ok = ok && out[i] == format.narrow(values[i]);
    CHECK_MESSAGE(ok, std::string(format.name) + " count " + std::to_string(count));
  }
}

void test_convert() {
  // 1 + 2⁻⁸ + 2⁻⁴⁰ lies above the middle of two bf16 numbers; through fp32 it would sit on it and
  // round down.
  const double value = 1 + 0x1p-8 + 0x1p-40;
  uint16_t code = 0;
  convert_floats(&value, DType::kFloat64, &code, DType::kBFloat16, 1);
  CHECK(bf16_to_float(code) == 1 + 0x1p-7f);
  const double tiny = 0x1p-25 + 0x1p-60;
  convert_floats(&tiny, DType::kFloat64, &code, DType::kFloat16, 1);
  CHECK(fp16_to_float(code) == 0x1p-24f);
  const double huge = -1e300;
  convert_floats(&huge, DType::kFloat64, &code, DType::kFloat16, 1);
  CHECK(code == 0xfc00);

  std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x7bff};
  std::vector<uint16_t> brain(3);
  convert_floats(halves.data(), DType::kFloat16, brain.data(), DType::kBFloat16, 3);
  CHECK(bf16_to_float(brain[0]) == 1 && bf16_to_float(brain[1]) == -2 &&
        bf16_to_float(brain[2]) == 65536);
  double back[3];
  convert_floats(brain.data(), DType::kBFloat16, back, DType::kFloat64, 3);
  CHECK(back[1] == -2);
  CHECK_THROWS_CODE(convert_floats(back, DType::kInt32, brain.data(), DType::kFloat16, 1),
                    "INVALID_ARGUMENT");
}

}  // namespace

int main() {
  for (const Format& format : kFormats) {
    test_scalar(format);
    for (Isa isa : available_isas()) test_vector(format, isa);
  }
  test_convert();
  return testing::summary();
}
