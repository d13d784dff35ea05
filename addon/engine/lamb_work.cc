#include "engine/lamb_work.h"

#include <algorithm>

#include "optim/lamb.h"
#include "optim/lamb_frozen.h"

namespace dsjs {
namespace {

struct LambBlock {
  size_t begin, end, tensor;
};

// A tensor's blocks begin at its own start, so that its norms depend neither on the threads nor on
// what lies before it.
std::vector<LambBlock> blocks_of(const OptimizerStep& step) {
  std::vector<LambBlock> blocks;
  for (size_t tensor = 0; tensor < step.ranges.size(); ++tensor) {
    const OptimizerRange& range = step.ranges[tensor];
    const size_t end = range.offset + range.count;
    for (size_t begin = range.offset; begin < end; begin += kNormBlock)
      blocks.push_back({begin, std::min(end, begin + kNormBlock), tensor});
  }
  return blocks;
}

// Two passes over all tensors: sums(block, hyper), added up in order into one a tensor, from which
// coefficient(tensor, sums, hyper) is worked out; then apply(block, coefficient, hyper).
template <class Sums, class First, class Add, class Coefficient, class Second>
void two_passes(ThreadPool& pool, const OptimizerStep& step, First sums, Add add,
                Coefficient coefficient, Second apply) {
  const std::vector<LambBlock> blocks = blocks_of(step);
  const auto hyper = [&](size_t tensor) -> const OptimizerHyper& {
    return step.groups[step.ranges[tensor].group];
  };
  const auto each_block = [&](const auto& body) {
    pool.parallel_for(blocks.size(), 1, [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) body(i, blocks[i]);
    });
  };
  std::vector<Sums> parts(blocks.size());
  each_block(
      [&](size_t i, const LambBlock& block) { parts[i] = sums(block, hyper(block.tensor)); });
  std::vector<Sums> totals(step.ranges.size());
  for (size_t i = 0; i < blocks.size(); ++i) add(totals[blocks[i].tensor], parts[i]);
  std::vector<double> coefficients(totals.size());
  for (size_t tensor = 0; tensor < totals.size(); ++tensor)
    coefficients[tensor] = coefficient(tensor, totals[tensor], hyper(tensor));
  each_block([&](size_t, const LambBlock& block) {
    apply(block, coefficients[block.tensor], hyper(block.tensor));
  });
}

void run_dense(ThreadPool& pool, const OptimizerStep& step, double scale,
               const OptimizerArrays& arrays, TrustRatio* ratios) {
  two_passes<LambSquares>(
      pool, step,
      [&](const LambBlock& block, const OptimizerHyper& hyper) {
        return lamb_moments(hyper, step.step, scale, arrays, block.begin, block.end);
      },
      [](LambSquares& total, const LambSquares& part) {
        total.weights += part.weights;
        total.update += part.update;
      },
      [&](size_t tensor, const LambSquares& squares, const OptimizerHyper& hyper) {
        const double c = lamb_coefficient(hyper, squares);
        if (ratios) average_trust_ratio(hyper, squares, c, ratios[tensor]);
        return c;
      },
      [&](const LambBlock& block, double coefficient, const OptimizerHyper& hyper) {
        lamb_apply(hyper, step.step, coefficient, arrays, block.begin, block.end);
      });
}

void run_frozen(ThreadPool& pool, const OptimizerStep& step, const OptimizerArrays& arrays,
                TrustRatio* ratios) {
  two_passes<FrozenSums>(
      pool, step,
      [&](const LambBlock& block, const OptimizerHyper& hyper) {
        return lamb_frozen_moments(hyper, step.step, arrays, block.begin, block.end);
      },
      [](FrozenSums& total, const FrozenSums& part) { total.add(part); },
      [&](size_t tensor, const FrozenSums& sums, const OptimizerHyper& hyper) {
        return frozen_coefficient(hyper, sums, ratios[tensor]);
      },
      [&](const LambBlock& block, double coefficient, const OptimizerHyper& hyper) {
        lamb_frozen_apply(hyper, step.step, coefficient, arrays, block.begin, block.end);
      });
}

}  // namespace

void run_lamb_step(ThreadPool& pool, const OptimizerStep& step, double scale,
                   const OptimizerArrays& arrays) {
  auto* ratios = step.ratios.buffer ? static_cast<TrustRatio*>(step.ratios.data()) : nullptr;
  if (step.kind == OptimizerKind::kLambFrozen)
    run_frozen(pool, step, arrays, ratios);
  else
    run_dense(pool, step, scale, arrays, ratios);
}

}  // namespace dsjs
