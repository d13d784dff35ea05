#include "compress/compressed_all_reduce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "compress/sign_kernels.h"
#include "core/error.h"

namespace dsjs {
namespace {

// A block is a scale, padded to a word, and the signs of a chunk.
constexpr size_t kHeader = 8;
constexpr size_t kChunkMultiple = 64;

float scale_of(double squares, size_t length) {
  if (length == 0) return 0;
  return static_cast<float>(std::sqrt(squares / static_cast<double>(length)));
}

float read_scale(const uint8_t* block) {
  float scale;
  std::memcpy(&scale, block, sizeof scale);
  return scale;
}

void write_scale(uint8_t* block, float scale) { std::memcpy(block, &scale, sizeof scale); }

std::string names_of(const std::vector<size_t>& ranks) {
  std::string names = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) names += ", ";
    names += std::to_string(ranks[i]);
  }
  return names;
}

}  // namespace

CompressedAllReduce::CompressedAllReduce(Communicator& communicator, size_t count,
                                         std::shared_ptr<MemoryAccount> account)
    : communicator_(communicator),
      ranks_(static_cast<size_t>(communicator.size())),
      rank_(static_cast<size_t>(communicator.rank())),
      count_(count) {
  const size_t share = (count + ranks_ - 1) / ranks_;
  chunk_ = (share + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
  block_ = kHeader + sign_bytes(chunk_);
  for (auto* staging : {&outgoing_, &incoming_, &gathered_})
    *staging = communicator.allocate_shared(ranks_ * block_, Category::kCommunication, account);
}

size_t CompressedAllReduce::offset(size_t rank) const { return std::min(count_, rank * chunk_); }

size_t CompressedAllReduce::length(size_t rank) const { return offset(rank + 1) - offset(rank); }

uint8_t* CompressedAllReduce::block(const std::shared_ptr<Buffer>& buffer, size_t rank) const {
  return static_cast<uint8_t*>(buffer->data()) + rank * block_;
}

void CompressedAllReduce::run(float* x, float* worker_error, float* server_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  std::vector<float> scales(ranks_);
  bool finite = true;
  for (size_t r = 0; r < ranks_; ++r) {
    scales[r] =
        scale_of(kernels.compensate(x + offset(r), worker_error + offset(r), length(r)), length(r));
    finite = finite && std::isfinite(scales[r]);
  }
  // A rank that cannot take part says so in every block, so that all ranks stop at the same place.
  if (!finite) std::fill(scales.begin(), scales.end(), std::numeric_limits<float>::quiet_NaN());
  for (size_t r = 0; r < ranks_; ++r) {
    uint8_t* out = block(outgoing_, r);
    write_scale(out, scales[r]);
    kernels.pack(worker_error + offset(r), scales[r], out + kHeader, length(r));
  }
  communicator_.all_to_all(outgoing_->data(), incoming_->data(), block_);

  std::vector<const uint8_t*> signs(ranks_);
  std::vector<size_t> broken;
  for (size_t r = 0; r < ranks_; ++r) {
    scales[r] = read_scale(block(incoming_, r));
    signs[r] = block(incoming_, r) + kHeader;
    if (std::isnan(scales[r])) broken.push_back(r);
  }
  if (!broken.empty())
    throw EngineError(
        "NON_FINITE",
        "a vector to be compressed has a value that is not finite on " + names_of(broken),
        "compressedAllReduce", static_cast<int>(rank_));

  const float scale = scale_of(
      kernels.average(signs.data(), scales.data(), ranks_, server_error, served()), served());
  uint8_t* own = block(gathered_, rank_);
  write_scale(own, scale);
  kernels.pack(server_error, scale, own + kHeader, served());
  std::vector<Shard> shards(ranks_);
  const size_t words = block_ / sizeof(float);
  for (size_t r = 0; r < ranks_; ++r) shards[r] = {r * words, words};
  communicator_.all_gather(gathered_->data(), ranks_ * words, DType::kFloat32, shards);
  for (size_t r = 0; r < ranks_; ++r) {
    const uint8_t* in = block(gathered_, r);
    kernels.unpack(in + kHeader, read_scale(in), x + offset(r), length(r));
  }
}

}  // namespace dsjs
