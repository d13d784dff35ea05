#include "gemm/gemm.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/isa_tables.h"
#include "gemm/cblas.h"
#include "gemm/plan.h"
#include "gemm/tasks.h"

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

struct Run {
  const Product& product;
  const GemmKernels& kernels;
  const Plan& plan;
  Parallel& parallel;
  size_t workers;

  // Part of the columns and of the sum: what is packed of B at a time.
  struct Stage {
    Span columns, depth;
    size_t step;  // of depth
    float* packed_b;
  };

  // A worker's scratch is `packed_a` floats; what is packed of B comes after those of all workers.
  Stage stage_of(size_t stage, float* scratch) const {
    const size_t width = kernels.tile_columns, step = stage % plan.depth_parts;
    const Span units =
        piece_of(parts_of(product.N, width), plan.column_parts, stage / plan.depth_parts);
    const size_t begin = units.begin * width;
    return {{begin, std::min(units.count * width, product.N - begin)},
            piece_of(product.K, plan.depth_parts, step),
            step,
            scratch + workers * plan.packed_a + stage % plan.buffers * plan.packed_b};
  }

  // With each stage of products B is packed for the next one: threads that are done with the former
  // do the latter, and wait for each other once a stage.
  void blocks(const Operands& operands, float* scratch) const {
    const size_t stages = plan.column_parts * plan.depth_parts;
    Stage next_stage = stages > 0 ? stage_of(0, scratch) : Stage{};
    share(parallel, workers, pack_tasks(next_stage), [&](size_t, auto next) {
      for (size_t task; (task = next()) < pack_tasks(next_stage);)
        pack_b(operands, next_stage, task);
    });
    for (size_t i = 0; i < stages; ++i) {
      const Stage stage = next_stage;
      next_stage = i + 1 < stages ? stage_of(i + 1, scratch) : Stage{};
      products_and_packs(operands, stage, next_stage, scratch);
    }
  }

  void products_and_packs(const Operands& operands, const Stage& stage, const Stage& next_stage,
                          float* scratch) const {
    const size_t products = plan.row_blocks * plan.column_groups;
    const size_t packs = pack_tasks(next_stage), sharing = std::min(workers, products + packs);
    if (sharing == 0) return;
    Tasks to_multiply(products, sharing), to_pack(packs, sharing);
    parallel.run(sharing, [&](size_t worker) {
      float* const packed_a = scratch + worker * plan.packed_a;
      size_t packed_rows = plan.row_blocks;
      for (size_t task; (task = to_multiply.next(worker)) < products;)
        multiply(operands, stage, task, packed_a, packed_rows);
      for (size_t task; (task = to_pack.next(worker)) < packs;) pack_b(operands, next_stage, task);
    });
  }

  // `packed_rows`: the block of rows that `packed_a` holds.
  void multiply(const Operands& operands, const Stage& stage, size_t task, float* packed_a,
                size_t& packed_rows) const {
    const size_t width = kernels.tile_columns;
    const size_t row_block = task / plan.column_groups;
    const Span rows = rows_of(row_block), depth = stage.depth;
    const Span group = piece_of(parts_of(stage.columns.count, width), plan.column_groups,
                                task % plan.column_groups);
    const size_t at = group.begin * width;
    Block part{rows,
               {stage.columns.begin + at, std::min(group.count * width, stage.columns.count - at)},
               depth.count,
               packed_a,
               stage.packed_b + kernels.packed_b(product, at, depth.count),
               operands.c,
               !product.accumulate && stage.step == 0,
               stage.step + 1 == plan.depth_parts};
    if (plan.rows_in_place) {
      const MatrixStrides& strides = product.a_strides;
      part.a = operands.a + rows.begin * strides.row + depth.begin * strides.column;
      return kernels.multiply_rows(product, part);
    }
    if (packed_rows != row_block)
      kernels.pack_a(product, operands.a, operands.a2, rows, depth, packed_a);
    packed_rows = row_block;
    kernels.multiply(product, part);
  }

  // Whole tiles as nearly as they fit: a tile of fewer rows loads as much for less.
  Span rows_of(size_t row_block) const {
    const size_t unit = kernels.row_unit, units = parts_of(product.M, unit);
    const size_t tiles = parts_of(product.M, kernels.tile_rows);
    const Span span = piece_of(tiles, plan.row_blocks, row_block);
    const auto row_of = [&](size_t tile) {
      return tile == tiles ? product.M : piece_of(units, tiles, tile).begin * unit;
    };
    const size_t begin = row_of(span.begin);
    return {begin, row_of(span.begin + span.count) - begin};
  }

  // Columns of a task of packing: as long pieces of rows as leave each worker several, since a
  // processor fetches ahead along a row.
  size_t pack_width(const Stage& stage) const {
    constexpr size_t kTasks = 4, kLeastPanels = 8;
    const size_t panels = parts_of(stage.columns.count, kernels.tile_columns);
    const size_t each = workers == 1 ? panels : parts_of(panels, kTasks * workers);
    return std::max(each, kLeastPanels) * kernels.tile_columns;
  }
  size_t pack_tasks(const Stage& stage) const {
    return parts_of(stage.columns.count, pack_width(stage));
  }

  void pack_b(const Operands& operands, const Stage& stage, size_t task) const {
    const size_t width = pack_width(stage), at = task * width, depth = stage.depth.count;
    const Span part{stage.columns.begin + at, std::min(width, stage.columns.count - at)};
    float* const to = stage.packed_b + kernels.packed_b(product, at, depth);
    kernels.pack_b(product, operands.b, operands.b2, part, stage.depth, to);
    if (product.column_sums)
      kernels.sum_columns(product, to, part.count, depth, product.accumulate_sums || stage.step > 0,
                          product.column_sums + part.begin);
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

  static constexpr size_t kWholeVectors = 64;

  void in_place(const Operands& operands, float* scratch) const {
    const bool dots = product.b_strides.column != 1;
    const Lines a = kernels.lines_of_a(product, operands.a, operands.a2, dots, scratch);
    share_span(product.N, kWholeVectors, [&](size_t, Span columns) {
      kernels.in_place(product, a, operands.b, operands.c, columns);
    });
  }

  void few_columns(const Operands& operands, float* scratch) const {
    const bool dots = product.a_strides.row != 1;
    const Lines lines =
        kernels.lines_of_b(product, operands.b, dots, scratch + workers * plan.packed_a);
    share_span(product.M, kWholeVectors, [&](size_t worker, Span rows) {
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
  return plan.workers * plan.packed_a +
         (plan.share_products ? plan.workers : plan.buffers) * plan.packed_b;
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
