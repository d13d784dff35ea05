#include "gemm/gemm.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>

#include "core/isa_tables.h"
#include "gemm/cblas.h"
#include "gemm/plan.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(GemmKernels, gemm_table)

#if defined(DSJS_HAS_AMX)
namespace amx {
extern const GemmKernels gemm_table;
}
namespace {

// One panel of columns is read in place (plan.h), which tiles cannot.
bool fits_tiles(const Product& product) {
  return product.N > amx::gemm_table.tile_columns && product.K > 0;
}

// Each element of B is packed as three parts and must be used often enough to pay for that; tiles
// are 16 rows by 16 columns by 32 terms, filled up with zeros. Measured against AVX-512 over a grid
// of 5 to 128 rows, 40 to 768 columns and 16 to 768 terms, one thread: from these on never slower
// (1.07 to 1.7 times as fast), below one of them 0.4 to 1.2 times.
constexpr size_t kAmxRows = 64, kAmxColumns = 40, kAmxDepth = 32;

bool pays_in_tiles(const Product& product) {
  return product.M >= kAmxRows && product.N >= kAmxColumns && product.K >= kAmxDepth;
}

}  // namespace
#endif

const GemmKernels& gemm_kernels(const Product& product, Isa isa) {
  isa = own_isa(isa);
#if defined(DSJS_HAS_AMX)
  if (isa == Isa::kAmx && !pays_in_tiles(product)) isa = Isa::kAvx512;
#endif
  return own_gemm_kernels(product, isa);
}

const GemmKernels& own_gemm_kernels(const Product& product, Isa isa) {
  isa = own_isa(isa);
#if defined(DSJS_HAS_AMX)
  if (isa == Isa::kAmx && fits_tiles(product)) return amx::gemm_table;
#endif
  return DSJS_ISA_TABLE(isa, gemm_table);
}

Operands operands_of(const Product& product, size_t index) {
  const BatchAxes& batch = product.batch;
  size_t a = 0, b = 0, rest = index;
  for (size_t axis = batch.axes; axis-- > 0;) {
    const size_t position = rest % batch.size[axis];
    rest /= batch.size[axis];
    a += position * batch.a_stride[axis];
    b += position * batch.b_stride[axis];
  }
  return {product.a + a, product.a2 ? product.a2 + a : nullptr,
          static_cast<const char*>(product.b) + b * size_of(product.b_dtype),
          product.b2 ? product.b2 + b : nullptr, product.c + index * product.M * product.ldc};
}

size_t batch_count(const BatchAxes& batch) {
  return std::accumulate(batch.size, batch.size + batch.axes, size_t{1}, std::multiplies<>());
}

namespace {

// Calls fn(worker, next) at once on up to `workers` threads; next() gives each task below `tasks`
// once, and then `tasks`.
template <class Fn>
void share(Parallel& parallel, size_t workers, size_t tasks, Fn fn) {
  if (tasks == 0) return;
  // A counter that threads share is a large part of a small product.
  if (std::min(workers, tasks) == 1) {
    size_t taken = 0;
    fn(size_t{0}, [&] { return std::min(taken++, tasks); });
    return;
  }
  std::atomic<size_t> taken{0};
  const auto next = [&] { return std::min(taken.fetch_add(1, std::memory_order_relaxed), tasks); };
  parallel.run(std::min(workers, tasks), [&](size_t worker) { fn(worker, next); });
}

struct Run {
  const Product& product;
  const GemmKernels& kernels;
  const Plan& plan;
  Parallel& parallel;
  size_t workers;

  // A worker's scratch is `packed_a` floats; what is packed of B comes after those of all workers.
  void blocks(const Operands& operands, float* scratch) const {
    const size_t width = kernels.tile_columns;
    const size_t panels = parts_of(product.N, width);
    for (size_t part = 0; part < plan.column_parts; ++part) {
      const Span units = piece_of(panels, plan.column_parts, part);
      const size_t begin = units.begin * width;
      const Span columns{begin, std::min(units.count * width, product.N - begin)};
      for (size_t step = 0; step < plan.depth_parts; ++step)
        block(operands, columns, step, scratch);
    }
  }

  void block(const Operands& operands, Span columns, size_t step, float* scratch) const {
    const Span depth = piece_of(product.K, plan.depth_parts, step);
    float* const packed_b = scratch + workers * plan.packed_a;
    pack_b(operands, columns, depth, step, packed_b);

    const size_t width = kernels.tile_columns;
    const size_t panels = parts_of(columns.count, width);
    const size_t tasks = plan.row_blocks * plan.column_groups;
    share(parallel, workers, tasks, [&](size_t worker, auto next) {
      float* const packed_a = scratch + worker * plan.packed_a;
      size_t packed_rows = plan.row_blocks;
      for (size_t task; (task = next()) < tasks;) {
        const size_t row_block = task / plan.column_groups;
        const Span rows = rows_of(row_block);
        const Span group = piece_of(panels, plan.column_groups, task % plan.column_groups);
        const size_t at = group.begin * width;
        Block part{rows,
                   {columns.begin + at, std::min(group.count * width, columns.count - at)},
                   depth.count,
                   packed_a,
                   packed_b + kernels.packed_b(product, at, depth.count),
                   operands.c,
                   !product.accumulate && step == 0,
                   step + 1 == plan.depth_parts};
        if (plan.rows_in_place) {
          const MatrixStrides& strides = product.a_strides;
          part.a = operands.a + rows.begin * strides.row + depth.begin * strides.column;
          kernels.multiply_rows(product, part);
          continue;
        }
        if (packed_rows != row_block)
          kernels.pack_a(product, operands.a, operands.a2, rows, depth, packed_a);
        packed_rows = row_block;
        kernels.multiply(product, part);
      }
    });
  }

  Span rows_of(size_t row_block) const {
    const size_t unit = kernels.row_unit;
    const Span units = piece_of(parts_of(product.M, unit), plan.row_blocks, row_block);
    const size_t begin = std::min(units.begin * unit, product.M);
    return {begin, std::min(units.count * unit, product.M - begin)};
  }

  void pack_b(const Operands& operands, Span columns, Span depth, size_t step,
              float* packed) const {
    constexpr size_t kPanels = 8;  // a task: enough of each row to be fetched ahead
    const size_t width = kernels.tile_columns * kPanels;
    const size_t tasks = parts_of(columns.count, width);
    share(parallel, workers, tasks, [&](size_t, auto next) {
      for (size_t task; (task = next()) < tasks;) {
        const size_t at = task * width;
        const Span part{columns.begin + at, std::min(width, columns.count - at)};
        float* const to = packed + kernels.packed_b(product, at, depth.count);
        kernels.pack_b(product, operands.b, operands.b2, part, depth, to);
        if (product.column_sums)
          kernels.sum_columns(product, to, part.count, depth.count,
                              product.accumulate_sums || step > 0,
                              product.column_sums + part.begin);
      }
    });
  }

  // Pieces of [0, total) in whole units, a few for each worker: their speed differs where memory is
  // shared. Calls fn(worker, piece).
  template <class Fn>
  void share_span(size_t total, size_t unit, Fn fn) const {
    constexpr size_t kPieces = 4;
    const size_t units = parts_of(total, unit);
    const size_t tasks =
        workers == 1 ? std::min<size_t>(1, units) : std::min(units, kPieces * workers);
    share(parallel, workers, tasks, [&](size_t worker, auto next) {
      for (size_t task; (task = next()) < tasks;) {
        const Span piece = piece_of(units, tasks, task);
        const size_t begin = piece.begin * unit;
        fn(worker, Span{begin, std::min(piece.count * unit, total - begin)});
      }
    });
  }

  void in_place(const Operands& operands, float* scratch) const {
    const bool dots = product.b_strides.column != 1;
    const Lines a = kernels.lines_of_a(product, operands.a, operands.a2, dots, scratch);
    constexpr size_t kWholeVectors = 64;
    share_span(product.N, kWholeVectors, [&](size_t, Span columns) {
      kernels.in_place(product, a, operands.b, operands.c, columns);
    });
  }

  void few_columns(const Operands& operands, float* scratch) const {
    const bool dots = product.a_strides.row != 1;
    const Lines lines =
        kernels.lines_of_b(product, operands.b, dots, scratch + workers * plan.packed_a);
    share_span(product.M, kFewColumnsPiece, [&](size_t worker, Span rows) {
      for (size_t done = 0; done < rows.count; done += kFewColumnsPiece)
        kernels.few_columns_of(product, lines, operands.a, operands.c,
                               {rows.begin + done, std::min(kFewColumnsPiece, rows.count - done)},
                               scratch + worker * plan.packed_a);
    });
  }

  void one(size_t index, float* scratch) const {
    const Operands operands = operands_of(product, index);
    if (plan.way == Way::kInPlace)
      in_place(operands, scratch);
    else if (plan.way == Way::kFewColumns)
      few_columns(operands, scratch);
    else
      blocks(operands, scratch);
  }
};

}  // namespace

Product plain_product(size_t M, size_t N, size_t K) {
  Product product{};
  product.M = M;
  product.N = N;
  product.K = K;
  product.b_dtype = DType::kFloat32;
  product.ldc = N;
  product.alpha = 1;
  return product;
}

size_t gemm_scratch(const Product& product, size_t threads, Isa isa) {
#if defined(DSJS_HAS_CBLAS)
  if (isa == Isa::kCblas && pays_in_cblas(product)) return 0;
#endif
  return gemm_scratch(product, threads, gemm_kernels(product, isa));
}

void gemm(const Product& product, Parallel& parallel, float* scratch, Isa isa) {
#if defined(DSJS_HAS_CBLAS)
  if (isa == Isa::kCblas && pays_in_cblas(product)) return gemm_by_cblas(product, parallel);
#endif
  gemm(product, parallel, scratch, gemm_kernels(product, isa));
}

size_t gemm_scratch(const Product& product, size_t threads, const GemmKernels& kernels) {
  const Plan plan = plan_product(product, threads, kernels);
  return plan.workers * plan.packed_a + (plan.share_products ? plan.workers : 1) * plan.packed_b;
}

void gemm(const Product& product, Parallel& parallel, float* scratch, const GemmKernels& kernels) {
  const Plan plan = plan_product(product, parallel.threads(), kernels);
  if (!plan.share_products) {
    const Run run{product, kernels, plan, parallel, plan.workers};
    for (size_t i = 0; i < plan.batches; ++i) run.one(i, scratch);
    return;
  }
  share(parallel, plan.workers, plan.batches, [&](size_t worker, auto next) {
    Serial alone;
    const Run run{product, kernels, plan, alone, 1};
    float* const own = scratch + worker * (plan.packed_a + plan.packed_b);
    for (size_t i; (i = next()) < plan.batches;) run.one(i, own);
  });
}

}  // namespace dsjs
