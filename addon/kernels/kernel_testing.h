// Shared by the kernel tests: repeatable data, comparison within a tolerance, every instruction
// set.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/isa.h"
#include "core/testing.h"

namespace dsjs::testing {

// Unit in the last place of fp32 relative to a value: what one rounding may lose is half of it.
constexpr double kEpsilon = 0x1p-23;

// Repeatable random numbers (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f;
  }
  std::vector<float> vector(size_t count, float low = -1, float high = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform(low, high);
    return values;
  }

 private:
  uint64_t state_;
};

// Each |got[i] − want[i]| is at most tolerance(i); NaN equals NaN, infinity itself. Reports the
// worst.
template <class Tolerance>
bool close(const std::string& what, const std::vector<float>& got, const std::vector<float>& want,
           Tolerance tolerance) {
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    if (got[i] == want[i]) continue;
    const double ratio = std::fabs(double{got[i]} - want[i]) / tolerance(i);
    if (ratio > worst || std::isnan(ratio)) {
      worst = std::isnan(ratio) ? HUGE_VAL : ratio;
      where = i;
    }
  }
  return check(worst <= 1 && got.size() == want.size(), __FILE__, __LINE__,
               what + ": element " + std::to_string(where) + " is " + std::to_string(got[where]) +
                   ", expected " + std::to_string(want[where]) + ", off by " +
                   std::to_string(worst) + " tolerances");
}

template <class Body>
void for_each_isa(Body body) {
  for (Isa isa : available_isas()) body(isa, std::string(isa_name(isa)) + " ");
}

}  // namespace dsjs::testing
