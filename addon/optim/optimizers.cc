#include "optim/optimizers.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/half.h"
#include "core/isa_tables.h"
#include "optim/optimizer_kernels.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(OptimizerKernels, optimizers)

namespace {

[[noreturn]] void refuse(const std::string& why) {
  throw EngineError("INVALID_ARGUMENT", "optimizer: " + why);
}

bool has_decoupled_decay(OptimizerKind kind) {
  return kind == OptimizerKind::kAdamW || kind == OptimizerKind::kLion ||
         kind == OptimizerKind::kAdamFrozen;
}

OptimizerKernels::Update update_of(OptimizerKind kind, const OptimizerHyper& hyper,
                                   const OptimizerKernels& kernels) {
  switch (kind) {
    case OptimizerKind::kAdam:
    case OptimizerKind::kAdamW:
      return kernels.adam;
    case OptimizerKind::kSgd:
      return hyper.beta1 == 0 ? kernels.sgd : kernels.sgd_momentum;
    case OptimizerKind::kLion:
      return kernels.lion;
    case OptimizerKind::kAdagrad:
      return kernels.adagrad;
    case OptimizerKind::kAdamax:
      return kernels.adamax;
    case OptimizerKind::kRmsprop:
      return kernels.rmsprop;
    case OptimizerKind::kRmspropCentered:
      return kernels.rmsprop_centered;
    case OptimizerKind::kAdagradRoot:
      return kernels.adagrad_root;
    case OptimizerKind::kAdadelta:
      return kernels.adadelta;
    case OptimizerKind::kAverage:
      return kernels.average;
    case OptimizerKind::kAdamFrozen:
      return kernels.adam_frozen;
    case OptimizerKind::kLamb:
    case OptimizerKind::kOneBitLamb:
    case OptimizerKind::kLambFrozen:
      refuse("this kind updates whole tensors");
  }
  refuse("unknown kind");
}

constexpr std::pair<const char*, OptimizerKind> kNames[] = {
    {"adam", OptimizerKind::kAdam},
    {"adamw", OptimizerKind::kAdamW},
    {"sgd", OptimizerKind::kSgd},
    {"lion", OptimizerKind::kLion},
    {"adagrad", OptimizerKind::kAdagrad},
    {"adamax", OptimizerKind::kAdamax},
    {"rmsprop", OptimizerKind::kRmsprop},
    {"rmsprop_centered", OptimizerKind::kRmspropCentered},
    {"adagrad_root", OptimizerKind::kAdagradRoot},
    {"adadelta", OptimizerKind::kAdadelta},
    {"average", OptimizerKind::kAverage},
    {"adam_frozen", OptimizerKind::kAdamFrozen},
    {"lamb", OptimizerKind::kLamb},
    {"onebit_lamb", OptimizerKind::kOneBitLamb},
    {"lamb_frozen", OptimizerKind::kLambFrozen},
};

}  // namespace

OptimizerConstants optimizer_constants(OptimizerKind kind, const OptimizerHyper& hyper,
                                       uint64_t step, double gradient_scale) {
  const bool decoupled = has_decoupled_decay(kind);
  const auto t = static_cast<double>(step);
  const auto correction = [&](double given, double beta) {
    if (given != 0) return given;
    return hyper.bias_correction ? 1 - std::pow(beta, t) : 1;
  };
  const double correction1 = correction(hyper.correction1, hyper.beta1);
  const double correction2 = correction(hyper.correction2, hyper.beta2);
  const bool sgd = kind == OptimizerKind::kSgd;
  OptimizerConstants c{};
  c.gradient_scale = static_cast<float>(gradient_scale);
  c.lr = static_cast<float>(hyper.lr);
  c.decay = decoupled ? static_cast<float>(-hyper.lr * hyper.weight_decay) : 0;
  c.l2 = decoupled ? 0 : static_cast<float>(hyper.weight_decay);
  c.beta1 = static_cast<float>(hyper.beta1);
  c.one_minus_beta1 = static_cast<float>(1 - (sgd ? hyper.dampening : hyper.beta1));
  c.beta2 = static_cast<float>(hyper.beta2);
  c.one_minus_beta2 = static_cast<float>(1 - hyper.beta2);
  c.eps = static_cast<float>(hyper.eps);
  c.step_size = static_cast<float>(hyper.lr / correction1);
  c.inverse_root_correction2 = static_cast<float>(1 / std::sqrt(correction2));
  c.inverse_correction1 = static_cast<float>(1 / correction1);
  c.inverse_root_by_step = static_cast<float>(1 / std::sqrt(correction(0, hyper.beta2)));
  c.first_step = step == 1;
  c.nesterov = hyper.nesterov;
  return c;
}

OptimizerKind optimizer_from_name(const char* name) {
  const std::string wanted = name;
  std::string names;
  for (const auto& [known, kind] : kNames) {
    if (wanted == known) return kind;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  refuse("\"" + wanted + "\" is none of " + names);
}

int optimizer_states(OptimizerKind kind, const OptimizerHyper& hyper) {
  switch (kind) {
    case OptimizerKind::kAdam:
    case OptimizerKind::kAdamW:
    case OptimizerKind::kAdamax:
    case OptimizerKind::kRmsprop:
    case OptimizerKind::kAdadelta:
    case OptimizerKind::kLamb:
      return 2;
    case OptimizerKind::kRmspropCentered:
    case OptimizerKind::kOneBitLamb:
    case OptimizerKind::kLambFrozen:
      return 3;
    case OptimizerKind::kSgd:
      return hyper.beta1 == 0 ? 0 : 1;
    case OptimizerKind::kLion:
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kAdagradRoot:
    case OptimizerKind::kAdamFrozen:
      return 1;
    case OptimizerKind::kAverage:
      return 0;
  }
  refuse("unknown kind");
}

void optimizer_update(OptimizerKind kind, const OptimizerHyper& hyper, uint64_t step,
                      double gradient_scale, const OptimizerArrays& arrays, size_t begin,
                      size_t end, Isa isa) {
  if (step == 0) refuse("steps count from 1");
  if (!arrays.master || !arrays.gradient) refuse("master weights and gradient are needed");
  const int states = optimizer_states(kind, hyper);
  if ((states > 0 && !arrays.state1) || (states > 1 && !arrays.state2) ||
      (states > 2 && !arrays.state3))
    refuse(std::to_string(states) + " state arrays are needed");
  if (arrays.copy16 && arrays.copy_type != DType::kFloat16 && arrays.copy_type != DType::kBFloat16)
    refuse("the 16-bit copy is float16 or bfloat16");
  const OptimizerConstants constants = optimizer_constants(kind, hyper, step, gradient_scale);
  update_of(kind, hyper, DSJS_ISA_TABLE(isa, optimizers))(constants, arrays, begin, end);
}

double clip_factor(double squared_sum, double gradient_scale, double max_norm) {
  if (max_norm == 0) return 1;
  return std::min(1.0, max_norm / (std::sqrt(squared_sum) * gradient_scale + 1e-6));
}

SquaredNorm squared_norm_block(const void* data, DType type, size_t begin, size_t end, Isa isa) {
  const OptimizerKernels& kernels = DSJS_ISA_TABLE(isa, optimizers);
  SquaredNorm norm;
  if (type == DType::kFloat32)
    return kernels.squared_norm(static_cast<const float*>(data) + begin, end - begin);
  if (type == DType::kFloat64) {
    const double* values = static_cast<const double*>(data);
    for (size_t i = begin; i < end; ++i) {
      if (std::isfinite(values[i]))
        norm.sum += values[i] * values[i];
      else
        ++norm.non_finite;
    }
    return norm;
  }
  constexpr size_t kWindow = 2048;
  float window[kWindow];
  const char* bytes = static_cast<const char*>(data);
  for (size_t i = begin; i < end; i += kWindow) {
    const size_t n = std::min(kWindow, end - i);
    convert_floats(bytes + i * size_of(type), type, window, DType::kFloat32, n);
    const SquaredNorm part = kernels.squared_norm(window, n);
    norm.sum += part.sum;
    norm.non_finite += part.non_finite;
  }
  return norm;
}

SquaredNorm squared_norm(const void* data, DType type, size_t count, Isa isa) {
  SquaredNorm norm;
  for (size_t begin = 0; begin < count; begin += kNormBlock) {
    const SquaredNorm block =
        squared_norm_block(data, type, begin, std::min(count, begin + kNormBlock), isa);
    norm.sum += block.sum;
    norm.non_finite += block.non_finite;
  }
  return norm;
}

}  // namespace dsjs
