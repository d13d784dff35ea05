// The loops of optim/lamb.h.
#include "optim/lamb_kernels.h"
#include "optim/lamb_weights.h"

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

void apply(const OptimizerConstants& c, float step, const OptimizerArrays& a, size_t begin,
           size_t end) {
  move_weights(a, a.state1, a.state2, step, Update(c), begin, end);
}

}  // namespace

extern const LambKernels lamb;
const LambKernels lamb = {moments, apply};

}  // namespace dsjs::DSJS_ISA
