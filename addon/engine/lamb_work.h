// The optimizer steps that need whole tensors: lamb, onebit_lamb and lamb_frozen.
#pragma once
#include "engine/tensor_work.h"

namespace dsjs {

// Every range of the step is one tensor. `scale` multiplies gradients. Results do not depend on the
// number of threads.
void run_lamb_step(ThreadPool& pool, const OptimizerStep& step, double scale,
                   const OptimizerArrays& arrays);

}  // namespace dsjs
