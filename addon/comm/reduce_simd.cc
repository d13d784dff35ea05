// Plain loops that the compiler turns into this instruction set's vectors.
#include <cstdint>

#include "comm/reduce_table.h"

namespace dsjs::DSJS_ISA {
namespace {

struct Add {
  template <class T>
  static T apply(T a, T b) {
    return a + b;
  }
};
// Both keep a NaN of either side.
struct Max {
  template <class T>
  static T apply(T a, T b) {
    return b > a || b != b ? b : a;
  }
};
struct Min {
  template <class T>
  static T apply(T a, T b) {
    return b < a || b != b ? b : a;
  }
};

template <class T, class Op>
void combine(void* accumulator, const void* source, size_t count) {
  T* __restrict sum = static_cast<T*>(accumulator);
  const T* __restrict x = static_cast<const T*>(source);
  for (size_t i = 0; i < count; ++i) sum[i] = Op::apply(sum[i], x[i]);
}

// Two ranks, the common case, in one pass and without an accumulator: both arrays become a + b.
// They are different arrays, so that iterations are independent.
void add_pair(float* first, float* second, size_t count) {
  float* __restrict a = first;
  float* __restrict b = second;
  for (size_t i = 0; i < count; ++i) {
    const float sum = a[i] + b[i];
    a[i] = sum;
    b[i] = sum;
  }
}

template <class T>
constexpr CombineByOp kOps = {combine<T, Add>, combine<T, Max>, combine<T, Min>};

}  // namespace

extern const ReduceTable reduce;
const ReduceTable reduce = {kOps<float>, kOps<double>, kOps<int32_t>, kOps<int64_t>, add_pair};

}  // namespace dsjs::DSJS_ISA
