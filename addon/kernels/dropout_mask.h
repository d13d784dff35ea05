// Which elements dropout keeps, for `*_simd.cc` files: see DropoutMask in kernels/elementwise.h.
#pragma once
#include "core/simd.h"
#include "kernels/elementwise.h"

namespace dsjs::DSJS_ISA {
namespace {

// Philox 4x32-10 of kLanes consecutive counters {first + lane, c1, c2, c3}: words[4·lane + word].
inline void philox(uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key,
                   uint32_t* words) {
  uint32_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) {
    a[lane] = first + static_cast<uint32_t>(lane);
    b[lane] = c1;
    c[lane] = c2;
    d[lane] = c3;
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const uint64_t p0 = uint64_t{0xD2511F53} * a[lane];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * c[lane];
      const uint32_t next_a = static_cast<uint32_t>(p1 >> 32) ^ b[lane] ^ k0;
      const uint32_t next_c = static_cast<uint32_t>(p0 >> 32) ^ d[lane] ^ k1;
      b[lane] = static_cast<uint32_t>(p1);
      d[lane] = static_cast<uint32_t>(p0);
      a[lane] = next_a;
      c[lane] = next_c;
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    words[4 * lane] = a[lane];
    words[4 * lane + 1] = b[lane];
    words[4 * lane + 2] = c[lane];
    words[4 * lane + 3] = d[lane];
  }
}

constexpr size_t kKeepBlock = 4 * kLanes;

// factors[k] = 0 or 1/(1 − ratio) for columns begin + k, k < kKeepBlock, of a row of a sample's
// plane; `begin` is a multiple of 4. Beyond the row's end they mean nothing.
inline void keep_factors(const DropoutMask& mask, int64_t sample, size_t plane, size_t row,
                         size_t begin, float* factors) {
  // uniform ≥ ratio, both multiplied by 2²⁴; the product is exact, so is the comparison.
  const float threshold = mask.ratio * 0x1p24f;
  const float scale = 1.0f / (1.0f - mask.ratio);
  uint32_t words[kKeepBlock];
  philox(static_cast<uint32_t>(begin / 4 + (row << 16)),
         static_cast<uint32_t>(mask.stream + (plane << 16)), static_cast<uint32_t>(mask.rng[1]),
         static_cast<uint32_t>(sample), static_cast<uint64_t>(mask.rng[0]), words);
  for (size_t k = 0; k < kKeepBlock; ++k)
    factors[k] =
        static_cast<float>(static_cast<int32_t>(words[k] >> 8)) >= threshold ? scale : 0.0f;
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
