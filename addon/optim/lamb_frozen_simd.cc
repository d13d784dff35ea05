// The loops of optim/lamb_frozen.h. Arrays: gradient m, state1 v, state2 f, state3 m′.
#include "optim/lamb_frozen_kernels.h"
#include "optim/lamb_weights.h"

namespace dsjs::DSJS_ISA {
namespace {

// u₀ and u: the same operations in both passes, and so the same bits. Lanes that do not exist load
// as v = 0.
struct Update {
  F32 inverse_correction1, correction2, eps, weight_decay;
  explicit Update(const OptimizerConstants& c)
      : inverse_correction1(splat(c.inverse_correction1)),
        correction2(splat(c.inverse_root_correction2)),
        eps(splat(c.eps)),
        weight_decay(splat(c.l2)) {}
  F32 root(F32 v) const { return fma(sqrt(v), correction2, eps); }
  F32 momentum(F32 m, F32 v) const { return v > 0.0f ? m * inverse_correction1 / root(v) : F32{}; }
  F32 operator()(F32 p, F32 momentum) const { return fma(weight_decay, p, momentum); }
};

FrozenSums moments(const OptimizerConstants& c, const OptimizerArrays& a, size_t begin,
                   size_t end) {
  const Update update(c);
  const F32 minus_beta1 = splat(-c.beta1), keep = splat(1 / c.one_minus_beta1);
  const F32 beta2 = splat(c.beta2), one_minus_beta2 = splat(c.one_minus_beta2);
  const F32 by_step = splat(c.inverse_root_by_step), eps = splat(c.eps);
  Squares momenta, updates;
  F32 largest{};
  const auto step = [&](F32 p, F32 m, F32 v, F32& fresh, F32 previous) {
    const F32 g = fma(minus_beta1, previous, m) * keep;
    fresh = fma(beta2, fresh, one_minus_beta2 * g * g);
    const F32 quotient = update.root(v) / fma(sqrt(fresh), by_step, eps);
    largest = max(largest, v > 0.0f ? quotient : F32{});
    const F32 momentum = update.momentum(m, v);
    momenta.add(momentum);
    updates.add(update(p, momentum));
  };
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    F32 fresh = load(a.state2 + i);
    step(load(a.master + i), load(a.gradient + i), load(a.state1 + i), fresh, load(a.state3 + i));
    store(a.state2 + i, fresh);
  }
  if (i < end) {
    const size_t rest = end - i;
    F32 fresh = load_part(a.state2 + i, rest);
    step(load_part(a.master + i, rest), load_part(a.gradient + i, rest),
         load_part(a.state1 + i, rest), fresh, load_part(a.state3 + i, rest));
    store_part(a.state2 + i, fresh, rest);
  }
  FrozenSums sums{momenta.total(), updates.total(), 0};
  for (size_t lane = 0; lane < kLanes; ++lane)
    sums.largest = largest[lane] > sums.largest ? largest[lane] : sums.largest;
  return sums;
}

void apply(const OptimizerConstants& c, float step, const OptimizerArrays& a, size_t begin,
           size_t end) {
  const Update update(c);
  const auto moved = [&](F32 p, F32 m, F32 v) { return update(p, update.momentum(m, v)); };
  move_weights(a, a.gradient, a.state1, step, moved, begin, end);
}

}  // namespace

extern const LambFrozenKernels lamb_frozen;
const LambFrozenKernels lamb_frozen = {moments, apply};

}  // namespace dsjs::DSJS_ISA
