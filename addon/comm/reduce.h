// Element-wise sums, maxima and minima of the ranks' arrays, in rank order: ((x0 + x1) + x2) + ...
// 16-bit values are added in fp32 and rounded once, at the end.
#pragma once
#include <cstddef>
#include <vector>

#include "comm/communicator.h"
#include "core/isa.h"

namespace dsjs {

// target[i] = reduction of sources[r][i], written to every target; a target may be a source. Types:
// the floats, int32, int64. Throws INVALID_ARGUMENT for others.
void reduce_arrays(const std::vector<const void*>& sources, const std::vector<void*>& targets,
                   size_t count, DType type, ReduceOp op, Isa isa = active_isa());

// target[i] (= or, accumulating, +=) sum of sources[r][i]; target_type is fp32 or `type`. A 16-bit
// sum is rounded to `type` even on its way to fp32, so that it equals what reduce_arrays gives.
void sum_into(const std::vector<const void*>& sources, void* target, DType target_type,
              size_t count, DType type, bool accumulate, Isa isa = active_isa());

}  // namespace dsjs
