// The loops of optim/lamb.h.
#include "core/simd_half.h"
#include "optim/lamb_kernels.h"

namespace dsjs::DSJS_ISA {
namespace {

// u from the new moments: the same operations in both passes, and so the same bits.
struct Update {
  F32 inverse_correction1, correction2, eps, weight_decay;
  explicit Update(const OptimizerConstants& c)
      : inverse_correction1(splat(c.inverse_correction1)),
        correction2(splat(c.inverse_root_correction2)),
        eps(splat(c.eps)),
        weight_decay(splat(c.l2)) {}
  F32 operator()(F32 p, F32 m, F32 v) const {
    return fma(weight_decay, p, m * inverse_correction1 / fma(sqrt(v), correction2, eps));
  }
};

struct Squares {
  F64 low{}, high{};
  void add(F32 v) {
    const F64 a = low64(v), b = high64(v);
    low += a * a;
    high += b * b;
  }
  double total() const { return sum64(low) + sum64(high); }
};

LambSquares moments(const OptimizerConstants& c, const OptimizerArrays& a, size_t begin,
                    size_t end) {
  const Update update(c);
  const F32 scale = splat(c.gradient_scale);
  const F32 beta1 = splat(c.beta1), one_minus_beta1 = splat(c.one_minus_beta1);
  const F32 beta2 = splat(c.beta2), one_minus_beta2 = splat(c.one_minus_beta2);
  Squares weights, updates;
  const auto step = [&](F32 p, F32 gradient, F32& m, F32& v) {
    const F32 g = gradient * scale;
    m = fma(beta1, m, one_minus_beta1 * g);
    v = fma(beta2, v, one_minus_beta2 * g * g);
    weights.add(p);
    return update(p, m, v);
  };
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    F32 m = load(a.state1 + i), v = load(a.state2 + i);
    updates.add(step(load(a.master + i), load(a.gradient + i), m, v));
    store(a.state1 + i, m);
    store(a.state2 + i, v);
  }
  if (i < end) {
    const size_t rest = end - i;
    F32 m = load_part(a.state1 + i, rest), v = load_part(a.state2 + i, rest);
    F32 u = step(load_part(a.master + i, rest), load_part(a.gradient + i, rest), m, v);
    store_part(a.state1 + i, m, rest);
    store_part(a.state2 + i, v, rest);
    // With eps 0 the lanes that do not exist are 0/0.
    for (size_t lane = rest; lane < kLanes; ++lane) u[lane] = 0;
    updates.add(u);
  }
  return {weights.total(), updates.total()};
}

template <U16 (*narrow)(F32)>
void apply_to(const OptimizerConstants& c, float factor, const OptimizerArrays& a, size_t begin,
              size_t end) {
  const Update update(c);
  const F32 step = splat(factor);
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    const F32 old = load(a.master + i);
    const F32 p = fma(step, update(old, load(a.state1 + i), load(a.state2 + i)), old);
    store(a.master + i, p);
    if constexpr (narrow != nullptr) store16(a.copy16 + i, narrow(p));
  }
  if (i == end) return;
  const size_t rest = end - i;
  const F32 old = load_part(a.master + i, rest);
  const F32 u = update(old, load_part(a.state1 + i, rest), load_part(a.state2 + i, rest));
  const F32 p = fma(step, u, old);
  store_part(a.master + i, p, rest);
  if constexpr (narrow != nullptr) store16_part(a.copy16 + i, narrow(p), rest);
}

void apply(const OptimizerConstants& c, float step, const OptimizerArrays& arrays, size_t begin,
           size_t end) {
  if (arrays.copy16 == nullptr)
    apply_to<nullptr>(c, step, arrays, begin, end);
  else if (arrays.copy_type == DType::kFloat16)
    apply_to<narrow_fp16>(c, step, arrays, begin, end);
  else
    apply_to<narrow_bf16>(c, step, arrays, begin, end);
}

}  // namespace

extern const LambKernels lamb;
const LambKernels lamb = {moments, apply};

}  // namespace dsjs::DSJS_ISA
