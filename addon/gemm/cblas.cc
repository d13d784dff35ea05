#include "gemm/cblas.h"

#include <algorithm>
#include <climits>

#include "gemm/gemm_kernels.h"

#if defined(__APPLE__)
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif

namespace dsjs {
namespace {

// Where the call and the pass over C afterwards are a small part. Not measured: see
// docs/operators.md.
constexpr size_t kLeast = 64;

// As the library sees op(X) in rows: transposed or not, and the distance of what is not adjacent.
struct Layout {
  bool fits;
  CBLAS_TRANSPOSE transposed;
  int pitch;
};

Layout layout_of(const MatrixStrides& strides, size_t rows, size_t columns) {
  const bool by_rows = strides.column == 1;
  const size_t pitch = by_rows ? strides.row : strides.column;
  const bool adjacent = by_rows || strides.row == 1;
  return {adjacent && pitch >= (by_rows ? columns : rows) && pitch <= INT_MAX,
          by_rows ? CblasNoTrans : CblasTrans, static_cast<int>(pitch)};
}

}  // namespace

bool pays_in_cblas(const Product& product) {
  const auto [least, most] = std::minmax({product.M, product.N, product.K});
  // With alpha 0 the library does not read A and B, which may hold NaN.
  return least >= kLeast && most <= INT_MAX && product.ldc <= INT_MAX && product.alpha != 0 &&
         product.b_dtype == DType::kFloat32 && product.prologue == Prologue::kNone &&
         product.prologue_b == Prologue::kNone && !product.column_sums &&
         layout_of(product.a_strides, product.M, product.K).fits &&
         layout_of(product.b_strides, product.K, product.N).fits;
}

void gemm_by_cblas(const Product& product, Parallel& parallel) {
  const Layout a = layout_of(product.a_strides, product.M, product.K);
  const Layout b = layout_of(product.b_strides, product.K, product.N);
  const GemmKernels& kernels = gemm_kernels(product, own_isa(Isa::kCblas));
  const size_t parts = std::min(parallel.threads(), product.M);
  for (size_t i = 0; i < batch_count(product.batch); ++i) {
    const Operands first = operands_of(product, i);
    cblas_sgemm(CblasRowMajor, a.transposed, b.transposed, static_cast<int>(product.M),
                static_cast<int>(product.N), static_cast<int>(product.K), product.alpha, first.a,
                a.pitch, static_cast<const float*>(first.b), b.pitch, product.accumulate ? 1 : 0,
                first.c, static_cast<int>(product.ldc));
    if (!has_end(product)) continue;
    parallel.run(parts, [&](size_t part) {
      const Span rows = piece_of(product.M, parts, part);
      kernels.finish(product, first.c + rows.begin * product.ldc, rows.count, {0, product.N});
    });
  }
}

}  // namespace dsjs
