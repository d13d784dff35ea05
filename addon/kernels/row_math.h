// Sums over a row, for `*_simd.cc` files. Four accumulators hide the latency of addition; a row is
// summed in blocks whose totals go to double, so the error does not grow with the length of the
// row.
#pragma once
#include "core/simd.h"

namespace dsjs::DSJS_ISA {
namespace {

constexpr size_t kSumBlock = 32 * 4 * kLanes;

// Σ fn(x[i]...) over [0, n).
template <class Fn, class... Inputs>
inline double row_sum(size_t n, Fn fn, const Inputs*... x) {
  double total = 0;
  for (size_t block = 0; block < n; block += kSumBlock) {
    const size_t stop = block + kSumBlock < n ? block + kSumBlock : n;
    F32 a{}, b{}, c{}, d{};
    size_t i = block;
    for (; i + 4 * kLanes <= stop; i += 4 * kLanes) {
      a += fn(load(x + i)...);
      b += fn(load(x + i + kLanes)...);
      c += fn(load(x + i + 2 * kLanes)...);
      d += fn(load(x + i + 3 * kLanes)...);
    }
    for (; i + kLanes <= stop; i += kLanes) a += fn(load(x + i)...);
    F32 lanes = (a + b) + (c + d);
    if (i < stop) {
      // fn of the padding lanes need not be 0: only the lanes of the row count.
      float rest[kLanes] = {};
      store_part(rest, fn(load_part(x + i, stop - i)...), stop - i);
      lanes += load(rest);
    }
    total += sum(lanes);
  }
  return total;
}

}  // namespace
}  // namespace dsjs::DSJS_ISA
