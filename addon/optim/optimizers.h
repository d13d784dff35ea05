// Fused optimizers: one pass over gradient, master weights and state. What each computes, per
// element, with g = gradient · gradient_scale, p the fp32 master weight, t = step from 1:
//
//   adamw    p −= lr·wd·p;  m = β1·m + (1−β1)·g;  v = β2·v + (1−β2)·g²
//            p −= lr/(1−β1ᵗ) · m / (√v/√(1−β2ᵗ) + eps)          Loshchilov and Hutter, arXiv
//            1711.05101
//   adam     the same without the first line, g += wd·p instead   Kingma and Ba, arXiv 1412.6980
//            (without bias correction both 1−βᵗ are 1)
//   sgd      g += wd·p;  b = t = 1 ? g : momentum·b + (1−dampening)·g
//            p −= lr·(nesterov ? g + momentum·b : b); momentum 0: p −= lr·g
//   lion     p −= lr·wd·p;  p −= lr·sign(β1·m + (1−β1)·g);  m = β2·m + (1−β2)·g    arXiv 2302.06675
//   adagrad  g += wd·p;  v += g²;  p −= lr·g / (√v + eps)         Duchi et al., JMLR 12, 2011
//
// as PyTorch's optimizers of these names and DeepSpeed's CPUAdam, CPULion and CPUAdagrad define
// them. And, after g += wd·p, as TensorFlow.js defines its own:
//
//   adamax            m = β1·m + (1−β1)·g;  u = max(β2·u, |g|)
//                     p −= lr/(1−β1ᵗ) · m / (u + eps)                   arXiv 1412.6980,
//                     section 7.1
//   rmsprop           s = β2·s + (1−β2)·g²;  b = β1·b + lr·g / √(s + eps);  p −= b
//   rmsprop_centered  a = β2·a + (1−β2)·g besides;  the root is √(s − (a² + eps))
//   adagrad_root      v += g²;  p −= lr·g / √(v + eps)
//   adadelta          d = √(u + eps) / √(s + eps) · g with the old u and s;  s = β2·s + (1−β2)·g²
//                     u = β2·u + (1−β2)·d²;  p −= lr·d                  Zeiler, arXiv 1212.5701
//
// And the two halves of 1-bit Adam's step (Tang et al., arXiv 2102.02888, algorithm 1), between
// which the momentum travels:
//
//   average      p = β1·p + (1−β1)·g
//   adam_frozen  p −= lr·wd·p;  p −= lr/(1−β1ᵗ) · g / (√v/√(1−β2ᵗ) + eps), v is not changed
//                where v is 0 the second line is left out: there never was a gradient, and what one
//                bit makes of a momentum of 0 would be divided by eps alone
//
// lamb, onebit_lamb and lamb_frozen need whole tensors and have files of their own, optim/lamb.h
// and optim/lamb_frozen.h.
//
// A host that keeps 1−β1ᵗ and 1−β2ᵗ itself gives them as correction1 and correction2.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/isa.h"

namespace dsjs {

enum class OptimizerKind {
  kAdam,
  kAdamW,
  kSgd,
  kLion,
  kAdagrad,
  kAdamax,
  kRmsprop,
  kRmspropCentered,
  kAdagradRoot,
  kAdadelta,
  kAverage,
  kAdamFrozen,
  kLamb,
  kOneBitLamb,
  kLambFrozen
};

// The names above; EngineError INVALID_ARGUMENT for another name.
OptimizerKind optimizer_from_name(const char* name);

// Those whose step in a tensor depends on all of the tensor.
constexpr bool needs_whole_tensors(OptimizerKind kind) {
  return kind == OptimizerKind::kLamb || kind == OptimizerKind::kOneBitLamb ||
         kind == OptimizerKind::kLambFrozen;
}

struct OptimizerHyper {
  double lr = 0;
  double beta1 = 0;  // sgd: momentum
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  bool bias_correction = true;
  bool nesterov = false;
  double dampening = 0;
  // 0: computed from β and the step.
  double correction1 = 0;
  double correction2 = 0;
  // lamb, onebit_lamb: bounds of the trust ratio.
  double min_coeff = 0;
  double max_coeff = 0;
  // onebit_lamb: decay rate of the trust ratio's average.
  double coeff_beta = 0;
  // lamb_frozen: bounds of the factor on it, and how much it may change in a step, relatively.
  double factor_min = 0;
  double factor_max = 0;
  double factor_threshold = 0;
};

// How many state arrays of the shard's length an update needs: adam 2 (m, v), sgd 1 with momentum
// (b), else 0, lion 1 (m), adagrad and adagrad_root 1 (v), adamax 2 (m, u), rmsprop 2 (s, b),
// rmsprop_centered 3 (s, b, a), adadelta 2 (s, u), average 0, adam_frozen 1 (v), lamb 2 (m, v),
// onebit_lamb and lamb_frozen 3 (lamb_frozen.h). They start as zeros.
int optimizer_states(OptimizerKind kind, const OptimizerHyper& hyper);

// A contiguous range. Unused states are null. copy16, where not null, receives the new weights as
// copy_type (kFloat16 or kBFloat16). Arrays do not overlap.
struct OptimizerArrays {
  float* master = nullptr;
  const float* gradient = nullptr;
  float* state1 = nullptr;
  float* state2 = nullptr;
  float* state3 = nullptr;
  uint16_t* copy16 = nullptr;
  DType copy_type = DType::kBFloat16;
};

// Updates elements [begin, end). An element's result does not depend on the range it came in.
// Throws EngineError INVALID_ARGUMENT when a state that the optimizer needs is null, step is 0 or
// the kind needs whole tensors.
void optimizer_update(OptimizerKind kind, const OptimizerHyper& hyper, uint64_t step,
                      double gradient_scale, const OptimizerArrays& arrays, size_t begin,
                      size_t end, Isa isa = active_isa());

// The formulas above typed out, weights and states in double: for tests.
void optimizer_reference(OptimizerKind kind, const OptimizerHyper& hyper, uint64_t step,
                         double gradient_scale, double* master, const float* gradient,
                         double* state1, double* state2, double* state3, size_t count);

// min(1, max_norm / (norm·gradient_scale + 1e-6)), norm = √squared_sum; 1 when max_norm is 0.
double clip_factor(double squared_sum, double gradient_scale, double max_norm);

// Σ x² in fp64 over the finite x, and how many x are not finite.
struct SquaredNorm {
  double sum = 0;
  uint64_t non_finite = 0;
};

// Summed in blocks of this many elements, so that the result does not depend on the number of
// threads: blocks may be computed anywhere, and are added in order.
constexpr size_t kNormBlock = 16384;
// Norm of one block [begin, end) of fp32, fp16, bf16 or fp64 values.
SquaredNorm squared_norm_block(const void* data, DType type, size_t begin, size_t end,
                               Isa isa = active_isa());
// Norm of a whole array, block by block; equals the ordered sum of its blocks.
SquaredNorm squared_norm(const void* data, DType type, size_t count, Isa isa = active_isa());

}  // namespace dsjs
