#include <algorithm>
#include <bit>

#include "compress/top_k_kernels.h"

namespace dsjs {
namespace {

uint32_t collect(float* x, const float* error, size_t count, uint32_t first, uint32_t least,
                 Candidates& candidates) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    if (error) x[i] += error[i];
    const uint32_t size = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = std::max(largest, size);
    if (size < least) continue;
    candidates.places[candidates.found] = first + static_cast<uint32_t>(i);
    candidates.values[candidates.found++] = x[i];
  }
  return largest;
}

}  // namespace

const TopKKernels kTopKReference = {collect};

}  // namespace dsjs
