#include "gemm/plan.h"

#include <algorithm>

namespace dsjs {
namespace {

// Multiplications from which on handing pieces to another thread pays (some ten microseconds).
constexpr size_t kShared = size_t{1} << 20;
// Floats of a cache line: parts of the scratch memory begin on one.
constexpr size_t kLine = 16;

size_t round_up(size_t value, size_t unit) { return parts_of(value, unit) * unit; }

// Below so many multiplications copies cost more than operands in the wrong order. So many floats
// of B, 4 MiB, count as small, too.
constexpr size_t kSmall = size_t{1} << 20;
// A dot product ends in adding up the lanes of a vector, packing handles each element of B once:
// with so many eighths of a term a lane for each of the few lines the first is the cheaper.
// Measured over 2 to 48 rows and 16 to 384 terms: even at 8 to 9 terms a row of 16 lanes and at 4
// to 5 of 8.
constexpr size_t kDotEighths = 5;
// Rows of A that so many panels of columns use are not worth a copy, where their elements are
// adjacent (measured: 1.05 to 1.2 times as fast, and 0.6 to 0.9 where they are not).
constexpr size_t kFewPanels = 4;

Way way_of(const Product& product, const GemmKernels& kernels) {
  // Each element of B is read once where it is packed, several times where it lies.
  const bool packs_b = product.column_sums || product.prologue_b != Prologue::kNone;
  if (kernels.few_rows == 0 || packs_b) return Way::kBlocks;
  const bool b_rows = product.b_strides.column == 1, b_columns = product.b_strides.row == 1;
  // More rows read a strip of B's rows or columns again, which pays while copies of B are a large
  // part of the product. Not where p(A) is copied by one thread for all of them.
  const bool plain = product.prologue == Prologue::kNone;
  const size_t rows = plain || product.K * product.N <= kSmall
                          ? 4 * std::max(kernels.few_rows, kernels.few_columns)
                          : kernels.few_rows;
  const size_t dots = (plain ? 8 : 1) * kernels.few_rows;
  // few_columns: the lanes of a vector.
  const auto dots_pay = [&](size_t lines) {
    return 8 * product.K >= kDotEighths * kernels.few_columns * lines;
  };
  if (b_rows && product.M <= rows) return Way::kInPlace;
  if (b_columns && product.M <= dots && dots_pay(product.M)) return Way::kInPlace;
  const bool a_rows = product.a_strides.column == 1, a_columns = product.a_strides.row == 1;
  // Dot products beat vectors of columns where these leave half of the lanes idle.
  const bool half = 2 * product.N <= kernels.few_columns;
  const bool small = product.M * product.N * product.K < kSmall;
  // Sums of more columns than a vector has lanes are turned over by parts.
  const size_t few_columns = std::max(kernels.few_columns, small ? 0 : 8 * kernels.few_rows);
  if (product.N > 0 && plain &&
      ((a_columns && product.N <= few_columns) ||
       (a_rows && half && product.N <= kernels.few_rows && dots_pay(product.N))))
    return Way::kFewColumns;
  return small && b_rows ? Way::kInPlace : Way::kBlocks;
}

// At the end of a stage a worker waits for the others' last tasks: so many tasks for each worker at
// most, and no task of fewer multiplications (a few microseconds), which hands over more than it
// evens out.
constexpr size_t kTasks = 16;
constexpr size_t kTask = size_t{1} << 18;

// Whole blocks of rows for each worker where there are enough, since a worker that begins in the
// midst of one packs its rows again. `narrowest`: panels of the narrowest stage; `work`:
// multiplications of one.
void share_rows(const Product& product, const GemmKernels& kernels, size_t narrowest, size_t work,
                size_t workers, Plan& plan) {
  // Beside few columns more rows fit a cache: longer pieces where A's columns are adjacent.
  const bool few_columns = kernels.few_rows > 0 && narrowest <= kFewPanels;
  plan.row_blocks = parts_of(product.M, kernels.blocking.rows * (few_columns ? 4 : 1));
  if (product.M >= workers * 4 * kernels.tile_rows)
    plan.row_blocks = round_up(plan.row_blocks, workers);
  plan.column_groups = 1;
  if (workers == 1 || plan.row_blocks == 0) return;
  const size_t tasks = std::clamp(work / kTask, workers, kTasks * workers);
  plan.column_groups = std::min(narrowest, parts_of(tasks, plan.row_blocks));
}

}  // namespace

Plan plan_product(const Product& product, size_t threads, const GemmKernels& kernels) {
  const size_t work = product.M * product.N * product.K;
  Plan plan{};
  plan.batches = batch_count(product.batch);
  plan.way = way_of(product, kernels);
  plan.share_products = plan.batches >= 2 * threads || (plan.batches > 1 && work < kShared);
  plan.workers = plan.share_products ? std::min(threads, plan.batches) : threads;
  if (work * (plan.share_products ? plan.batches : 1) < kShared) plan.workers = 1;
  plan.buffers = 1;

  if (plan.way == Way::kInPlace) {
    const bool dots = product.b_strides.column != 1;
    const bool copied =
        product.prologue != Prologue::kNone || (dots && product.a_strides.column != 1);
    plan.packed_a = copied ? round_up(product.M * product.K, kLine) : 0;
    return plan;
  }
  if (plan.way == Way::kFewColumns) {
    plan.packed_a = product.N * kFewColumnsPiece;
    const bool dots = product.a_strides.row != 1;
    const bool copied = product.b_dtype != DType::kFloat32 || (dots && product.b_strides.row != 1);
    plan.packed_b = copied ? round_up(product.K * product.N, kLine) : 0;
    return plan;
  }
  const size_t panels = parts_of(product.N, kernels.tile_columns);
  plan.depth_parts = std::max<size_t>(1, parts_of(product.K, kernels.blocking.depth));
  plan.column_parts = parts_of(product.N, round_up(kernels.blocking.columns, kernels.tile_columns));
  // A thread alone packs B when it has multiplied what was packed before.
  const bool ahead = !plan.share_products && plan.workers > 1;
  if (ahead && plan.depth_parts * plan.column_parts > 1) plan.buffers = 2;
  const size_t column_parts = std::max<size_t>(1, plan.column_parts);
  const size_t narrowest = panels / column_parts, stages = plan.depth_parts * column_parts;
  share_rows(product, kernels, narrowest, work / stages, plan.share_products ? 1 : plan.workers,
             plan);

  const size_t depth = parts_of(product.K, plan.depth_parts);
  const bool rows_pay =
      panels == 1 || work < kSmall || (panels <= kFewPanels && product.a_strides.column == 1);
  plan.rows_in_place = kernels.few_rows > 0 && product.prologue == Prologue::kNone && rows_pay;
  const size_t tiles = parts_of(product.M, kernels.tile_rows);
  const size_t rows = parts_of(tiles, std::max<size_t>(1, plan.row_blocks)) * kernels.tile_rows;
  plan.packed_a = plan.rows_in_place ? 0 : round_up(kernels.packed_a(product, rows, depth), kLine);
  const size_t columns = parts_of(panels, column_parts) * kernels.tile_columns;
  plan.packed_b = round_up(kernels.packed_b(product, columns, depth), kLine);
  return plan;
}

}  // namespace dsjs
