// The loops of optim/optimizers.h: every array is read once and written once.
#include "core/simd_half.h"
#include "optim/optimizer_kernels.h"

namespace dsjs::DSJS_ISA {
namespace {

// One vector of an update; States is how many state arrays it has.
struct Lane {
  F32 p, g, s1, s2, s3;
};

struct Adam {
  static constexpr int kStates = 2;
  F32 scale, decay, l2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, step_size, correction;
  explicit Adam(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        decay(splat(c.decay)),
        l2(splat(c.l2)),
        beta1(splat(c.beta1)),
        one_minus_beta1(splat(c.one_minus_beta1)),
        beta2(splat(c.beta2)),
        one_minus_beta2(splat(c.one_minus_beta2)),
        eps(splat(c.eps)),
        step_size(splat(-c.step_size)),
        correction(splat(c.inverse_root_correction2)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = fma(beta1, v.s1, one_minus_beta1 * g);
    v.s2 = fma(beta2, v.s2, one_minus_beta2 * g * g);
    const F32 denominator = fma(sqrt(v.s2), correction, eps);
    v.p = fma(step_size, v.s1 / denominator, fma(decay, v.p, v.p));
  }
};

struct Sgd {
  static constexpr int kStates = 0;
  F32 scale, l2, lr;
  explicit Sgd(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)), l2(splat(c.l2)), lr(splat(-c.lr)) {}
  void operator()(Lane& v) const { v.p = fma(lr, fma(l2, v.p, v.g * scale), v.p); }
};

struct SgdMomentum {
  static constexpr int kStates = 1;
  F32 scale, l2, lr, momentum, keep;
  bool first_step, nesterov;
  explicit SgdMomentum(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        l2(splat(c.l2)),
        lr(splat(-c.lr)),
        momentum(splat(c.beta1)),
        keep(splat(c.one_minus_beta1)),
        first_step(c.first_step),
        nesterov(c.nesterov) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = first_step ? g : fma(momentum, v.s1, keep * g);
    const F32 direction = nesterov ? fma(momentum, v.s1, g) : v.s1;
    v.p = fma(lr, direction, v.p);
  }
};

struct Lion {
  static constexpr int kStates = 1;
  F32 scale, decay, lr, beta1, one_minus_beta1, beta2, one_minus_beta2;
  explicit Lion(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        decay(splat(c.decay)),
        lr(splat(c.lr)),
        beta1(splat(c.beta1)),
        one_minus_beta1(splat(c.one_minus_beta1)),
        beta2(splat(c.beta2)),
        one_minus_beta2(splat(c.one_minus_beta2)) {}
  void operator()(Lane& v) const {
    const F32 g = v.g * scale;
    const F32 direction = fma(beta1, v.s1, one_minus_beta1 * g);
    const F32 move = direction > 0.0f ? lr : direction < 0.0f ? -lr : F32{};
    v.p = fma(decay, v.p, v.p) - move;
    v.s1 = fma(beta2, v.s1, one_minus_beta2 * g);
  }
};

struct Adagrad {
  static constexpr int kStates = 1;
  F32 scale, l2, lr, eps;
  explicit Adagrad(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)), l2(splat(c.l2)), lr(splat(-c.lr)), eps(splat(c.eps)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = fma(g, g, v.s1);
    v.p = fma(lr, g / (sqrt(v.s1) + eps), v.p);
  }
};

struct Adamax {
  static constexpr int kStates = 2;
  F32 scale, l2, beta1, one_minus_beta1, beta2, eps, step_size;
  explicit Adamax(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        l2(splat(c.l2)),
        beta1(splat(c.beta1)),
        one_minus_beta1(splat(c.one_minus_beta1)),
        beta2(splat(c.beta2)),
        eps(splat(c.eps)),
        step_size(splat(-c.step_size)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = fma(beta1, v.s1, one_minus_beta1 * g);
    const F32 decayed = beta2 * v.s2;
    const F32 size = g < 0.0f ? -g : g;
    v.s2 = decayed > size ? decayed : size;
    v.p = fma(step_size, v.s1 / (v.s2 + eps), v.p);
  }
};

template <bool Centered>
struct Rmsprop {
  static constexpr int kStates = Centered ? 3 : 2;
  F32 scale, l2, lr, momentum, decay, one_minus_decay, eps;
  explicit Rmsprop(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        l2(splat(c.l2)),
        lr(splat(c.lr)),
        momentum(splat(c.beta1)),
        decay(splat(c.beta2)),
        one_minus_decay(splat(c.one_minus_beta2)),
        eps(splat(c.eps)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = fma(decay, v.s1, one_minus_decay * g * g);
    F32 under = v.s1 + eps;
    if constexpr (Centered) {
      v.s3 = fma(decay, v.s3, one_minus_decay * g);
      under = v.s1 - fma(v.s3, v.s3, eps);
    }
    v.s2 = fma(momentum, v.s2, lr * g / sqrt(under));
    v.p = v.p - v.s2;
  }
};

struct AdagradRoot {
  static constexpr int kStates = 1;
  F32 scale, l2, lr, eps;
  explicit AdagradRoot(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)), l2(splat(c.l2)), lr(splat(-c.lr)), eps(splat(c.eps)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    v.s1 = fma(g, g, v.s1);
    v.p = fma(lr, g / sqrt(v.s1 + eps), v.p);
  }
};

struct Adadelta {
  static constexpr int kStates = 2;
  F32 scale, l2, lr, rho, one_minus_rho, eps;
  explicit Adadelta(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        l2(splat(c.l2)),
        lr(splat(-c.lr)),
        rho(splat(c.beta2)),
        one_minus_rho(splat(c.one_minus_beta2)),
        eps(splat(c.eps)) {}
  void operator()(Lane& v) const {
    const F32 g = fma(l2, v.p, v.g * scale);
    const F32 d = sqrt(v.s2 + eps) / sqrt(v.s1 + eps) * g;
    v.s1 = fma(rho, v.s1, one_minus_rho * g * g);
    v.s2 = fma(rho, v.s2, one_minus_rho * d * d);
    v.p = fma(lr, d, v.p);
  }
};

struct Average {
  static constexpr int kStates = 0;
  F32 scale, beta1, one_minus_beta1;
  explicit Average(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        beta1(splat(c.beta1)),
        one_minus_beta1(splat(c.one_minus_beta1)) {}
  void operator()(Lane& v) const { v.p = fma(beta1, v.p, one_minus_beta1 * (v.g * scale)); }
};

struct AdamFrozen {
  static constexpr int kStates = 1;
  F32 scale, decay, eps, step_size, correction;
  explicit AdamFrozen(const OptimizerConstants& c)
      : scale(splat(c.gradient_scale)),
        decay(splat(c.decay)),
        eps(splat(c.eps)),
        step_size(splat(-c.step_size)),
        correction(splat(c.inverse_root_correction2)) {}
  void operator()(Lane& v) const {
    const F32 denominator = fma(sqrt(v.s1), correction, eps);
    const F32 direction = v.s1 > 0.0f ? v.g * scale / denominator : F32{};
    v.p = fma(step_size, direction, fma(decay, v.p, v.p));
  }
};

// 2 KiB ahead: seven streams are more than the processor's own prefetchers follow well (+8% on one
// core here). Reaching behind the end is harmless.
constexpr size_t kAhead = 512;

template <class Rule>
inline void prefetch(const OptimizerArrays& a, size_t i) {
  __builtin_prefetch(a.master + i + kAhead, 1);
  __builtin_prefetch(a.gradient + i + kAhead);
  if constexpr (Rule::kStates > 0) __builtin_prefetch(a.state1 + i + kAhead, 1);
  if constexpr (Rule::kStates > 1) __builtin_prefetch(a.state2 + i + kAhead, 1);
  if constexpr (Rule::kStates > 2) __builtin_prefetch(a.state3 + i + kAhead, 1);
}

template <class Rule, U16 (*narrow)(F32)>
inline void run(const OptimizerConstants& constants, const OptimizerArrays& a, size_t begin,
                size_t end) {
  const Rule rule(constants);
  Lane v{};
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    prefetch<Rule>(a, i);
    v.p = load(a.master + i);
    v.g = load(a.gradient + i);
    if constexpr (Rule::kStates > 0) v.s1 = load(a.state1 + i);
    if constexpr (Rule::kStates > 1) v.s2 = load(a.state2 + i);
    if constexpr (Rule::kStates > 2) v.s3 = load(a.state3 + i);
    rule(v);
    store(a.master + i, v.p);
    if constexpr (Rule::kStates > 0) store(a.state1 + i, v.s1);
    if constexpr (Rule::kStates > 1) store(a.state2 + i, v.s2);
    if constexpr (Rule::kStates > 2) store(a.state3 + i, v.s3);
    if constexpr (narrow != nullptr) store16(a.copy16 + i, narrow(v.p));
  }
  if (i == end) return;
  const size_t rest = end - i;
  v.p = load_part(a.master + i, rest);
  v.g = load_part(a.gradient + i, rest);
  if constexpr (Rule::kStates > 0) v.s1 = load_part(a.state1 + i, rest);
  if constexpr (Rule::kStates > 1) v.s2 = load_part(a.state2 + i, rest);
  if constexpr (Rule::kStates > 2) v.s3 = load_part(a.state3 + i, rest);
  rule(v);
  store_part(a.master + i, v.p, rest);
  if constexpr (Rule::kStates > 0) store_part(a.state1 + i, v.s1, rest);
  if constexpr (Rule::kStates > 1) store_part(a.state2 + i, v.s2, rest);
  if constexpr (Rule::kStates > 2) store_part(a.state3 + i, v.s3, rest);
  if constexpr (narrow != nullptr) store16_part(a.copy16 + i, narrow(v.p), rest);
}

template <class Rule>
void update(const OptimizerConstants& constants, const OptimizerArrays& arrays, size_t begin,
            size_t end) {
  if (arrays.copy16 == nullptr)
    run<Rule, nullptr>(constants, arrays, begin, end);
  else if (arrays.copy_type == DType::kFloat16)
    run<Rule, narrow_fp16>(constants, arrays, begin, end);
  else
    run<Rule, narrow_bf16>(constants, arrays, begin, end);
}

// Squares in fp64, where that of the largest float is far from overflow.
SquaredNorm squared_norm(const float* x, size_t count) {
  F64 low{}, high{};
  I32 bad{};
  const auto add = [&](F32 v) {
    const I32 finite = is_finite(v);
    bad -= ~finite;
    v = finite ? v : F32{};
    const F64 a = low64(v), b = high64(v);
    low += a * a;
    high += b * b;
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) add(load(x + i));
  if (i < count) add(load_part(x + i, count - i));
  SquaredNorm norm;
  norm.sum = sum64(low) + sum64(high);
  for (size_t lane = 0; lane < kLanes; ++lane) norm.non_finite += static_cast<uint32_t>(bad[lane]);
  return norm;
}

}  // namespace

extern const OptimizerKernels optimizers;
const OptimizerKernels optimizers = {
    update<Adam>,        update<Sgd>,      update<SgdMomentum>,    update<Lion>,
    update<Adagrad>,     update<Adamax>,   update<Rmsprop<false>>, update<Rmsprop<true>>,
    update<AdagradRoot>, update<Adadelta>, update<Average>,        update<AdamFrozen>,
    squared_norm};

}  // namespace dsjs::DSJS_ISA
