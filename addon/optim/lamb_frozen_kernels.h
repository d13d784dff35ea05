// Between optim/lamb_frozen.cc and the per-ISA loops.
#pragma once
#include <cstddef>

#include "optim/lamb_frozen.h"
#include "optim/optimizer_kernels.h"

namespace dsjs {

struct LambFrozenKernels {
  FrozenSums (*moments)(const OptimizerConstants&, const OptimizerArrays&, size_t begin,
                        size_t end);
  // step: −lr·c̄·r.
  void (*apply)(const OptimizerConstants&, float step, const OptimizerArrays&, size_t begin,
                size_t end);
};

}  // namespace dsjs
