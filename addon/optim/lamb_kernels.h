// Between optim/lamb.cc and the per-ISA loops.
#pragma once
#include <cstddef>

#include "optim/lamb.h"
#include "optim/optimizer_kernels.h"

namespace dsjs {

struct LambKernels {
  LambSquares (*moments)(const OptimizerConstants&, const OptimizerArrays&, size_t begin,
                         size_t end);
  // step: −lr·c.
  void (*apply)(const OptimizerConstants&, float step, const OptimizerArrays&, size_t begin,
                size_t end);
};

}  // namespace dsjs
