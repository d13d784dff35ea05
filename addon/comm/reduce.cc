#include "comm/reduce.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "comm/reduce_table.h"
#include "core/error.h"
#include "core/half.h"
#include "core/isa_tables.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(ReduceTable, reduce)

namespace {

// Elements reduced at a time: accumulator and one source stay in the first-level cache.
constexpr size_t kBlock = 1024;

const char* at(const void* array, size_t element, DType type) {
  return static_cast<const char*>(array) + element * size_of(type);
}
char* at(void* array, size_t element, DType type) {
  return static_cast<char*>(array) + element * size_of(type);
}

bool is_half(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

// How one type is reduced: loaded into an accumulator of `wide` type, combined, stored again.
class Reduction {
 public:
  Reduction(DType type, ReduceOp op, Isa isa)
      : type_(type), wide_(is_half(type) ? DType::kFloat32 : type), half_(half_kernels(isa)) {
    const ReduceTable& table = DSJS_ISA_TABLE(isa, reduce);
    const CombineByOp& ops = by_type(table);
    combine_float_ = table.float32.sum;
    combine_ = op == ReduceOp::kSum ? ops.sum : op == ReduceOp::kMax ? ops.max : ops.min;
  }

  // The reduction of elements [begin, begin + count) of all sources, at most kBlock, in accumulator
  // type. The result is valid until the next call.
  void* accumulate(const std::vector<const void*>& sources, size_t begin, size_t count) {
    load(sources[0], begin, count, accumulator_);
    for (size_t rank = 1; rank < sources.size(); ++rank) {
      const void* source = at(sources[rank], begin, type_);
      if (is_half(type_)) {
        load(sources[rank], begin, count, operand_);
        source = operand_;
      }
      combine_(accumulator_, source, count);
    }
    return accumulator_;
  }

  // sum = sum combined with an array of the sources' type, which is not a 16-bit one.
  void combine_into(void* sum, const void* array, size_t count) const {
    combine_(sum, array, count);
  }

  void store(const void* accumulated, void* target, size_t count) const {
    const float* sums = static_cast<const float*>(accumulated);
    if (type_ == DType::kBFloat16)
      half_.float_to_bf16(sums, static_cast<uint16_t*>(target), count);
    else if (type_ == DType::kFloat16)
      half_.float_to_fp16(sums, static_cast<uint16_t*>(target), count);
    else
      std::memcpy(target, accumulated, count * size_of(type_));
  }

  // accumulated += array, an array of the sources' type.
  void add(void* accumulated, const void* array, size_t count) {
    load(array, 0, count, operand_);
    combine_(accumulated, operand_, count);
  }

  // target = accumulated, or target += accumulated, in fp32; accumulated is of the sources' type.
  void deliver_float(const void* accumulated, float* target, size_t count, bool accumulate) {
    const void* sums = accumulated;
    if (is_half(type_)) {
      // Rounded as a sum that stays in 16 bits is: both kinds of target get the same values.
      store(accumulated, rounded_, count);
      load(rounded_, 0, count, operand_);
      sums = operand_;
    } else if (wide_ != DType::kFloat32) {
      convert_floats(accumulated, wide_, operand_, DType::kFloat32, count);
      sums = operand_;
    }
    if (accumulate)
      combine_float_(target, sums, count);
    else
      std::memcpy(target, sums, count * sizeof(float));
  }

 private:
  const CombineByOp& by_type(const ReduceTable& table) const {
    switch (wide_) {
      case DType::kFloat32:
        return table.float32;
      case DType::kFloat64:
        return table.float64;
      case DType::kInt32:
        return table.int32;
      case DType::kInt64:
        return table.int64;
      default:
        throw EngineError("INVALID_ARGUMENT",
                          std::string("cannot reduce elements of type ") + dtype_name(type_),
                          "allReduce");
    }
  }

  void load(const void* array, size_t begin, size_t count, void* into) const {
    const void* source = at(array, begin, type_);
    if (type_ == DType::kBFloat16)
      half_.bf16_to_float(static_cast<const uint16_t*>(source), static_cast<float*>(into), count);
    else if (type_ == DType::kFloat16)
      half_.fp16_to_float(static_cast<const uint16_t*>(source), static_cast<float*>(into), count);
    else
      std::memcpy(into, source, count * size_of(type_));
  }

  DType type_, wide_;
  const HalfKernels& half_;
  Combine combine_, combine_float_;
  alignas(64) char accumulator_[kBlock * 8];
  alignas(64) char operand_[kBlock * 8];
  alignas(64) uint16_t rounded_[kBlock];
};

// The arrays of two ranks, reduced in place on both sides.
bool is_pair(const std::vector<const void*>& sources, const std::vector<void*>& targets) {
  return sources.size() == 2 && targets.size() == 2 && sources[0] == targets[0] &&
         sources[1] == targets[1] && sources[0] != sources[1];
}

// What is left to be combined with the target where that holds a source with which the reduction
// may begin: one pass and no accumulator. Empty elsewhere. Two arrays may change places in a sum,
// though not in a maximum of zeros.
std::vector<const void*> yet_to_be_added(const std::vector<const void*>& sources,
                                         const void* target, DType type, ReduceOp op) {
  if (is_half(type) || sources.size() < 2 || sources[0] == sources[1]) return {};
  if (target == sources[0]) return {sources.begin() + 1, sources.end()};
  if (target == sources[1] && sources.size() == 2 && op == ReduceOp::kSum) return {sources[0]};
  return {};
}

}  // namespace

void reduce_arrays(const std::vector<const void*>& sources, const std::vector<void*>& targets,
                   size_t count, DType type, ReduceOp op, Isa isa) {
  if (type == DType::kFloat32 && op == ReduceOp::kSum && is_pair(sources, targets)) {
    const ReduceTable& table = DSJS_ISA_TABLE(isa, reduce);
    table.add_pair(static_cast<float*>(targets[0]), static_cast<float*>(targets[1]), count);
    return;
  }
  Reduction reduction(type, op, isa);
  const std::vector<const void*> added = yet_to_be_added(sources, targets[0], type, op);
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t length = std::min(kBlock, count - begin);
    for (const void* source : added)
      reduction.combine_into(at(targets[0], begin, type), at(source, begin, type), length);
    if (added.empty())
      reduction.store(reduction.accumulate(sources, begin, length), at(targets[0], begin, type),
                      length);
    for (size_t rank = 1; rank < targets.size(); ++rank)
      std::memcpy(at(targets[rank], begin, type), at(targets[0], begin, type),
                  length * size_of(type));
  }
}

void sum_into(const std::vector<const void*>& sources, void* target, DType target_type,
              size_t count, DType type, bool accumulate, Isa isa) {
  if (target_type != type && target_type != DType::kFloat32)
    throw EngineError(
        "INVALID_ARGUMENT",
        std::string("a sum of ") + dtype_name(type) + " cannot go to " + dtype_name(target_type),
        "reduceScatter");
  Reduction reduction(type, ReduceOp::kSum, isa);
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t length = std::min(kBlock, count - begin);
    void* sum = reduction.accumulate(sources, begin, length);
    void* place = at(target, begin, target_type);
    if (target_type == type) {
      if (accumulate) reduction.add(sum, place, length);
      reduction.store(sum, place, length);
    } else {
      reduction.deliver_float(sum, static_cast<float*>(place), length, accumulate);
    }
  }
}

}  // namespace dsjs
