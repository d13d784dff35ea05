// The kernels of the instruction set in use.
#include "core/isa_tables.h"
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "kernels/normalization.h"
#include "kernels/softmax.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(ActivationKernels, activation)
DSJS_DECLARE_ISA_TABLES(ElementwiseKernels, elementwise)
DSJS_DECLARE_ISA_TABLES(NormalizationKernels, normalization)
DSJS_DECLARE_ISA_TABLES(SoftmaxKernels, softmax)

const ActivationKernels& activation_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, activation); }
const ElementwiseKernels& elementwise_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, elementwise); }
const NormalizationKernels& normalization_kernels(Isa isa) {
  return DSJS_ISA_TABLE(isa, normalization);
}
const SoftmaxKernels& softmax_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, softmax); }

}  // namespace dsjs
