#include "engine/tensor_work.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/half.h"
#include "engine/lamb_work.h"
#include "kernels/elementwise.h"

namespace dsjs {
namespace {

// Pieces are multiples of this many elements: whole cache lines of any type, and enough work to be
// worth waking a thread.
constexpr size_t kGrain = 4096;

void require(bool condition, const std::string& message) {
  if (!condition) throw EngineError("INVALID_ARGUMENT", message, "optimizerStep");
}

void* at(const Region& region, size_t element) {
  return static_cast<uint8_t*>(region.data()) + element * size_of(region.dtype);
}

float* floats(const Region& region) {
  return region.buffer ? static_cast<float*>(region.data()) : nullptr;
}

}  // namespace

void require_equal_counts(const char* operation, const Region& a, const Region& b) {
  if (a.count != b.count)
    throw EngineError("INVALID_ARGUMENT",
                      std::string(operation) + ": " + std::to_string(a.count) +
                          " elements against " + std::to_string(b.count),
                      operation);
}

void fill_region(ThreadPool& pool, const Region& region, double value) {
  pool.parallel_for(region.count, kGrain, [&](size_t begin, size_t end) {
    fill_floats(region.data(), region.dtype, value, begin, end);
  });
}

void copy_region(ThreadPool& pool, const Region& source, const Region& target) {
  pool.parallel_for(source.count, kGrain, [&](size_t begin, size_t end) {
    convert_floats(at(source, begin), source.dtype, at(target, begin), target.dtype, end - begin);
  });
}

void axpby_region(ThreadPool& pool, const Region& source, const Region& target, double b,
                  double a) {
  pool.parallel_for(source.count, kGrain, [&](size_t begin, size_t end) {
    axpby_floats(source.data(), source.dtype, target.data(), target.dtype, b, a, begin, end);
  });
}

void squared_norm_regions(ThreadPool& pool, const std::vector<Region>& regions, double* out) {
  SquaredNorm total;
  for (const Region& region : regions) {
    const size_t blocks = (region.count + kNormBlock - 1) / kNormBlock;
    std::vector<SquaredNorm> parts(blocks);
    pool.parallel_for(blocks, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++)
        parts[i] = squared_norm_block(region.data(), region.dtype, i * kNormBlock,
                                      std::min(region.count, (i + 1) * kNormBlock));
    });
    for (const SquaredNorm& part : parts) {
      total.sum += part.sum;
      total.non_finite += part.non_finite;
    }
  }
  out[0] = total.sum;
  out[1] = static_cast<double>(total.non_finite);
}

void check_optimizer_step(const OptimizerStep& step) {
  require(step.step >= 1, "step counts from 1");
  const size_t length = step.master.count;
  const auto check_array = [&](const char* name, const Region& region) {
    require(region.dtype == DType::kFloat32, std::string(name) + " must be float32");
    require(region.count == length, std::string(name) + " has " + std::to_string(region.count) +
                                        " elements, master " + std::to_string(length));
  };
  check_array("master", step.master);
  check_array("gradient", step.gradient);
  if (step.state1.buffer) check_array("state1", step.state1);
  if (step.state2.buffer) check_array("state2", step.state2);
  if (step.state3.buffer) check_array("state3", step.state3);
  if (step.copy16.buffer) {
    require(step.copy16.dtype == DType::kBFloat16 || step.copy16.dtype == DType::kFloat16,
            "copy16 must be bfloat16 or float16");
    require(step.copy16.count == length, "copy16 has " + std::to_string(step.copy16.count) +
                                             " elements, master " + std::to_string(length));
  }
  size_t end_of_previous = 0;
  for (const OptimizerRange& range : step.ranges) {
    require(range.group < step.groups.size(), "a range names group " + std::to_string(range.group) +
                                                  " of " + std::to_string(step.groups.size()));
    require(range.offset >= end_of_previous && range.offset <= length &&
                range.count <= length - range.offset,
            "the range [" + std::to_string(range.offset) + ", +" + std::to_string(range.count) +
                ") must lie in the shard of " + std::to_string(length) +
                " elements and after the range before it");
    end_of_previous = range.offset + range.count;
    const int states = optimizer_states(step.kind, step.groups[range.group]);
    require(states < 1 || step.state1.buffer, "this optimizer needs state1");
    require(states < 2 || step.state2.buffer, "this optimizer needs state2");
    require(states < 3 || step.state3.buffer, "this optimizer needs state3");
    const OptimizerHyper& hyper = step.groups[range.group];
    if (step.kind == OptimizerKind::kLamb || step.kind == OptimizerKind::kOneBitLamb)
      require(hyper.min_coeff >= 0 && hyper.min_coeff <= hyper.max_coeff,
              "lamb needs 0 ≤ minCoeff ≤ maxCoeff");
    if (step.kind == OptimizerKind::kLambFrozen)
      require(hyper.factor_min >= 0 && hyper.factor_min <= hyper.factor_max &&
                  hyper.factor_threshold >= 0,
              "lamb_frozen needs 0 ≤ factorMin ≤ factorMax and 0 ≤ factorThreshold");
  }
  if (step.kind == OptimizerKind::kOneBitLamb || step.kind == OptimizerKind::kLambFrozen)
    require(step.ratios.buffer && step.ratios.dtype == DType::kFloat32 &&
                step.ratios.count == 2 * step.ranges.size(),
            "1-bit LAMB needs `ratios`, two float32 for each range");
  require(step.max_norm >= 0, "maxNorm must not be negative");
  require(step.max_norm == 0 || step.norm_buffer, "clipping (maxNorm) needs `norm`");
}

void run_optimizer_step(ThreadPool& pool, const OptimizerStep& step) {
  double scale = step.gradient_scale;
  if (step.norm_buffer) {
    const auto* norm = reinterpret_cast<const double*>(
        static_cast<const uint8_t*>(step.norm_buffer->data()) + step.norm_offset);
    if (norm[1] != 0) return;
    scale *= clip_factor(norm[0], step.gradient_scale, step.max_norm);
  }
  const OptimizerArrays arrays{
      floats(step.master),
      floats(step.gradient),
      floats(step.state1),
      floats(step.state2),
      floats(step.state3),
      step.copy16.buffer ? static_cast<uint16_t*>(step.copy16.data()) : nullptr,
      step.copy16.dtype};
  if (needs_whole_tensors(step.kind)) return run_lamb_step(pool, step, scale, arrays);
  // One parallel loop over the shard: models have hundreds of small ranges (biases between
  // weights), and waking the threads for each would cost more than the update.
  pool.parallel_for(step.master.count, kGrain, [&](size_t begin, size_t end) {
    auto range =
        std::partition_point(step.ranges.begin(), step.ranges.end(),
                             [&](const OptimizerRange& r) { return r.offset + r.count <= begin; });
    for (; range != step.ranges.end() && range->offset < end; ++range)
      optimizer_update(step.kind, step.groups[range->group], step.step, scale, arrays,
                       std::max(begin, range->offset), std::min(end, range->offset + range->count));
  });
}

}  // namespace dsjs
