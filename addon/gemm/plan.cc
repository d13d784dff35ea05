#include "gemm/plan.h"

#include <algorithm>
#include <numeric>

namespace dsjs {
namespace {

// Multiplications from which on handing pieces to another thread pays (some ten microseconds).
constexpr size_t kShared = size_t{1} << 20;
// Floats of a cache line: parts of the scratch memory begin on one.
constexpr size_t kLine = 16;

size_t round_up(size_t value, size_t unit) { return parts_of(value, unit) * unit; }

bool reads_b_directly(const Product& product, const GemmKernels& kernels) {
  return kernels.few_rows && product.M <= kernels.few && !product.column_sums &&
         (product.b_strides.row == 1 || product.b_strides.column == 1);
}

// Enough tasks for all workers, of rows alone where they suffice: a task packs its rows again.
void share_rows(const Product& product, const GemmKernels& kernels, size_t narrowest, Plan& plan) {
  plan.row_blocks = parts_of(product.M, kernels.blocking.rows);
  plan.column_groups = 1;
  if (product.M >= plan.workers * 4 * kernels.tile_rows) {
    plan.row_blocks = round_up(plan.row_blocks, plan.workers);
  } else if (product.M > 0) {
    plan.column_groups =
        std::min(narrowest, plan.workers / std::gcd(plan.row_blocks, plan.workers));
  }
}

}  // namespace

Plan plan_product(const Product& product, size_t threads, const GemmKernels& kernels) {
  const size_t work = product.M * product.N * product.K;
  Plan plan{};
  plan.batches = batch_count(product.batch);
  plan.way = plan.batches >= 2 * threads || (plan.batches > 1 && work < kShared) ? Way::kBatches
             : reads_b_directly(product, kernels)                                ? Way::kFewRows
                                                                                 : Way::kBlocks;
  plan.workers = plan.way == Way::kBatches ? std::min(threads, plan.batches) : threads;
  if (work * (plan.way == Way::kBatches ? plan.batches : 1) < kShared) plan.workers = 1;

  if (reads_b_directly(product, kernels)) {
    plan.packed_a = round_up(product.M * product.K, kLine);
    return plan;
  }
  const size_t panels = parts_of(product.N, kernels.tile_columns);
  plan.depth_parts = std::max<size_t>(1, parts_of(product.K, kernels.blocking.depth));
  plan.column_parts = parts_of(product.N, round_up(kernels.blocking.columns, kernels.tile_columns));
  const size_t narrowest = panels / std::max<size_t>(1, plan.column_parts);
  Plan inner = plan;
  if (plan.way == Way::kBatches) inner.workers = 1;
  share_rows(product, kernels, narrowest, inner);
  plan.row_blocks = inner.row_blocks;
  plan.column_groups = inner.column_groups;

  const size_t depth = parts_of(product.K, plan.depth_parts);
  plan.narrow = panels == 1 && product.prologue == Prologue::kNone;
  const size_t units = parts_of(product.M, kernels.row_unit);
  const size_t rows = parts_of(units, std::max<size_t>(1, plan.row_blocks)) * kernels.row_unit;
  plan.packed_a = plan.narrow ? 0 : round_up(kernels.packed_a(product, rows, depth), kLine);
  const size_t columns =
      parts_of(panels, std::max<size_t>(1, plan.column_parts)) * kernels.tile_columns;
  plan.packed_b = round_up(kernels.packed_b(product, columns, depth), kLine);
  return plan;
}

}  // namespace dsjs
