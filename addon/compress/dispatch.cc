// The loops of the instruction set in use.
#include "compress/int8_kernels.h"
#include "compress/low_rank_kernels.h"
#include "compress/sign_kernels.h"
#include "compress/top_k_kernels.h"
#include "core/isa_tables.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(SignKernels, sign)
DSJS_DECLARE_ISA_TABLES(Int8Kernels, int8)
DSJS_DECLARE_ISA_TABLES(LowRankKernels, low_rank)
DSJS_DECLARE_ISA_TABLES(TopKKernels, top_k)

const SignKernels& sign_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, sign); }
const Int8Kernels& int8_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, int8); }
const LowRankKernels& low_rank_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, low_rank); }
const TopKKernels& top_k_kernels(Isa isa) { return DSJS_ISA_TABLE(isa, top_k); }

}  // namespace dsjs
