// What the compute queue does to flat buffers between runs of segments: fills, copies, norms and
// optimizer steps, split over the engine's own threads. Results do not depend on their number.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "core/threads.h"
#include "optim/optimizers.h"

namespace dsjs {

// A stretch of a buffer: `count` elements from byte `offset`. Holds the buffer.
struct Region {
  std::shared_ptr<Buffer> buffer;
  size_t offset = 0;
  size_t count = 0;
  DType dtype = DType::kFloat32;

  void* data() const { return static_cast<uint8_t*>(buffer->data()) + offset; }
};

// Throws INVALID_ARGUMENT unless both have the same number of elements.
void require_equal_counts(const char* operation, const Region& a, const Region& b);

void fill_region(ThreadPool& pool, const Region& region, double value);

// Any float types, each value rounded once.
void copy_region(ThreadPool& pool, const Region& source, const Region& target);

// target = a·target + b·source
void axpby_region(ThreadPool& pool, const Region& source, const Region& target, double b, double a);

// out[0] = Σ x² over the finite x of all regions, out[1] = how many x are not finite. fp64, in an
// order that depends on the regions alone.
void squared_norm_regions(ThreadPool& pool, const std::vector<Region>& regions, double* out);

// Elements [offset, offset + count) of the shard are updated with hyper-parameters `group`. For
// kinds that need whole tensors a range is one.
struct OptimizerRange {
  size_t offset, count, group;
};

struct OptimizerStep {
  OptimizerKind kind = OptimizerKind::kAdamW;
  uint64_t step = 1;
  // fp32 and of one length; the states and `copy16` have no buffer where they are absent.
  Region master, gradient, state1, state2, state3;
  Region copy16;
  // onebit_lamb, lamb_frozen: a TrustRatio (two fp32) for each range.
  Region ratios;
  std::vector<OptimizerRange> ranges;
  std::vector<OptimizerHyper> groups;
  double gradient_scale = 1;
  double max_norm = 0;
  // [Σ g², non-finite count] of the whole gradient over all ranks; no buffer: no clipping, no
  // check.
  std::shared_ptr<Buffer> norm_buffer;
  size_t norm_offset = 0;
};

// Throws INVALID_ARGUMENT naming what does not fit: types, lengths, ranges, groups, missing states,
// clipping without a norm.
void check_optimizer_step(const OptimizerStep& step);

// Changes nothing when the norm counts a value that is not finite.
void run_optimizer_step(ThreadPool& pool, const OptimizerStep& step);

}  // namespace dsjs
