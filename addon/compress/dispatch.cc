// The loops of the instruction set in use.
#include "compress/sign_kernels.h"
#include "core/isa_tables.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(SignKernels, sign)

const SignKernels& sign_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, sign); }

}  // namespace dsjs
