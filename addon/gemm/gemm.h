// Matrix products: C = e(alpha · op(p(A)) · op(q(B)) + bias) + residual, packed, blocked and tiled
// as Goto and van de Geijn (Anatomy of High-Performance Matrix Multiplication, 2008) and Van Zee
// and van de Geijn (BLIS, 2015) describe. Letters throughout: C is M × N, K is summed over.
//
// An element of C is the same sum in the same order whatever the number of threads and wherever it
// lies: results repeat bit for bit, also at another number of threads.
#pragma once
#include <cstddef>

#include "core/dtype.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace dsjs {

// What happens to the elements of an operand as they are read. kSiluMul: silu(A)·A2, silu(B)·B2.
enum class Prologue { kNone, kGelu, kGeluTanh, kSilu, kSiluMul };

// What happens to alpha·product + bias. The gradients multiply it by the activation's derivative at
// Z.
enum class Epilogue { kNone, kGelu, kGeluTanh, kSilu, kGeluGrad, kGeluTanhGrad, kSiluGrad };

// Distances between rows and columns of op(X), in elements. A transposed operand has them swapped.
// Fast when one of them is 1.
struct MatrixStrides {
  size_t row;
  size_t column;
};

// Products over the leading axes of an array, each axis broadcast where its stride is 0. C, Z and
// the residual are dense over them: product i begins at C + i·M·ldc.
constexpr size_t kMaxBatchAxes = 8;
struct BatchAxes {
  size_t axes;
  size_t size[kMaxBatchAxes];
  size_t a_stride[kMaxBatchAxes];
  size_t b_stride[kMaxBatchAxes];
};

struct Product {
  size_t M, N, K;
  const float* a;
  MatrixStrides a_strides;
  const void* b;
  // float32, bfloat16 or float16: 16-bit values are widened as they are packed.
  DType b_dtype;
  MatrixStrides b_strides;
  // Rows of C are ldc elements apart, columns are adjacent. No input may overlap C.
  float* c;
  size_t ldc;
  float alpha;
  // Add to C instead of replacing it; without epilogue then.
  bool accumulate;
  BatchAxes batch;

  Prologue prologue;
  const float* a2;  // strides as A; for kSiluMul
  // Of B, in fp32 then.
  Prologue prologue_b;
  const float* b2;  // strides as B; for kSiluMul

  Epilogue epilogue;
  const float* bias;      // N values, or null
  const float* residual;  // laid out as C, or null
  const float* z;         // laid out as C; for the gradients

  // Null, or N values that take the sums of op(q(B))'s columns. Not with a batch.
  float* column_sums;
  bool accumulate_sums;
};

// A plain product over fp32 arrays: every field that an addition to it would set is off.
Product plain_product(size_t M, size_t N, size_t K);

// Floats of scratch memory that `gemm` needs for this product with so many threads.
size_t gemm_scratch(const Product& product, size_t threads, Isa isa = active_isa());

// Computes it. `scratch` is aligned to 64 bytes.
void gemm(const Product& product, Parallel& parallel, float* scratch, Isa isa = active_isa());

// First elements of the operands of one product of the batch.
struct Operands {
  const float* a;
  const float* a2;
  const void* b;
  const float* b2;
  float* c;
};
Operands operands_of(const Product& product, size_t index);
size_t batch_count(const BatchAxes& batch);

// The formula in double, for tests: `value` takes C (dense, M × N of each product of the batch),
// `magnitude` |c| + |alpha|·Σ|p(a)·q(b)| + |bias|, what an error of rounding is relative to.
void gemm_reference(const Product& product, double* value, double* magnitude);

}  // namespace dsjs
