#include "compress/gradient_compressor.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/error.h"

namespace dsjs {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) throw EngineError("INVALID_ARGUMENT", message, "createGradientCompressor");
}

}  // namespace

void check_ratio(double ratio) { require(ratio > 0 && ratio <= 1, "ratio must be in (0, 1]"); }

void GradientCompressor::set_ratio(double) { require(false, "only topk has a ratio"); }

GradientCompression::Kind gradient_compression_from_name(const std::string& name) {
  using Kind = GradientCompression::Kind;
  if (name == "int8") return Kind::kInt8;
  if (name == "topk") return Kind::kTopK;
  require(name == "powersgd", "\"" + name + "\" is none of int8, topk, powersgd");
  return Kind::kPowerSgd;
}

std::unique_ptr<GradientCompressor> make_gradient_compressor(
    const GradientCompression& compression, Communicator& communicator,
    const std::vector<CompressedTensor>& tensors, std::shared_ptr<MemoryAccount> account) {
  using Kind = GradientCompression::Kind;
  require(!tensors.empty(), "a bucket without tensors cannot be compressed");
  size_t end = 0;
  for (const CompressedTensor& tensor : tensors) {
    require(tensor.rows > 0 && tensor.columns > 0, "an empty tensor cannot be compressed");
    require(tensor.offset >= end, "tensors must be in ascending order and not overlap");
    end = tensor.offset + tensor.count();
  }
  require(end <= std::numeric_limits<uint32_t>::max(), "a bucket has at most 2³² − 1 elements");
  switch (compression.kind) {
    case Kind::kInt8:
      require(compression.block > 0, "block must be above 0");
      return make_int8_compressor(compression.block, communicator, tensors, std::move(account));
    case Kind::kTopK:
      check_ratio(compression.ratio);
      return make_top_k_compressor(compression.ratio, communicator, tensors, std::move(account));
    case Kind::kPowerSgd:
      require(compression.rank > 0, "rank must be above 0");
      return make_power_sgd_compressor(compression.rank, communicator, tensors, std::move(account));
  }
  throw EngineError("INTERNAL", "unknown gradient compression");
}

void fill_with_nan(float* x, const std::vector<CompressedTensor>& tensors) {
  for (const CompressedTensor& tensor : tensors)
    std::fill_n(x + tensor.offset, tensor.count(), std::numeric_limits<float>::quiet_NaN());
}

}  // namespace dsjs
