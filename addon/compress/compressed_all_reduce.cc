#include "compress/compressed_all_reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "compress/messages.h"
#include "compress/sign_kernels.h"
#include "core/error.h"

namespace dsjs {
namespace {

constexpr size_t kBlock = 1024;

float scale_of(double squares, size_t count) {
  return static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
}

std::string names_of(const std::vector<size_t>& ranks) {
  std::string names = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) names += ", ";
    names += std::to_string(ranks[i]);
  }
  return names;
}

}  // namespace

CompressedAllReduce::CompressedAllReduce(Communicator& communicator,
                                         const std::vector<size_t>& tensors,
                                         std::shared_ptr<MemoryAccount> account)
    : communicator_(communicator),
      ranks_(static_cast<size_t>(communicator.size())),
      rank_(static_cast<size_t>(communicator.rank())) {
  for (const size_t length : tensors) {
    for (size_t done = 0; done < length; done += kBlock)
      blocks_.push_back({count_ + done, std::min(kBlock, length - done), 0});
    count_ += length;
  }
  size_t next = 0;
  for (size_t r = 0; r < ranks_; ++r) {
    first_.push_back(next);
    size_t bytes = 0;
    const size_t end = count_ / ranks_ * (r + 1) + count_ % ranks_ * (r + 1) / ranks_;
    for (; next < blocks_.size() && blocks_[next].offset < end; ++next) {
      blocks_[next].signs = bytes;
      bytes += sign_bytes(blocks_[next].count);
    }
    message_ = std::max(message_, (next - first_[r]) * sizeof(float) + bytes);
  }
  first_.push_back(next);
  // At least one scale, in which a rank can say that it cannot take part.
  message_ = message_length(std::max(message_, sizeof(float)));
  for (auto* staging : {&outgoing_, &incoming_, &gathered_})
    *staging = communicator.allocate_shared(ranks_ * message_, Category::kCommunication, account);
}

size_t CompressedAllReduce::begin_of(size_t rank) const {
  return first_[rank] < blocks_.size() ? blocks_[first_[rank]].offset : count_;
}

CompressedAllReduce::Message CompressedAllReduce::message(const std::shared_ptr<Buffer>& buffer,
                                                          size_t server, size_t slot) const {
  float* scales = message_at(buffer, slot, message_);
  return {scales, reinterpret_cast<uint8_t*>(scales + (first_[server + 1] - first_[server]))};
}

// Where an element is not finite, every server is told by its first scale, so that all ranks stop
// at the same place.
void CompressedAllReduce::send_to_servers(const float* x, float* worker_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  bool finite = true;
  for (size_t r = 0; r < ranks_; ++r) {
    const Message to = message(outgoing_, r, r);
    for (size_t b = first_[r]; b < first_[r + 1]; ++b) {
      const Block& block = blocks_[b];
      float* error = worker_error + block.offset;
      const float scale =
          scale_of(kernels.compensate(x + block.offset, error, block.count), block.count);
      finite = finite && std::isfinite(scale);
      to.scales[b - first_[r]] = scale;
      kernels.pack(error, scale, to.signs + block.signs, block.count);
    }
  }
  if (finite) return;
  for (size_t r = 0; r < ranks_; ++r)
    *message(outgoing_, r, r).scales = std::numeric_limits<float>::quiet_NaN();
}

void CompressedAllReduce::average(float* server_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  const Message own = message(gathered_, rank_, rank_);
  std::vector<const uint8_t*> signs(ranks_);
  std::vector<float> scales(ranks_);
  for (size_t b = first_[rank_]; b < first_[rank_ + 1]; ++b) {
    const Block& block = blocks_[b];
    for (size_t r = 0; r < ranks_; ++r) {
      const Message from = message(incoming_, rank_, r);
      scales[r] = from.scales[b - first_[rank_]];
      signs[r] = from.signs + block.signs;
    }
    float* error = server_error + (block.offset - begin_of(rank_));
    const float scale = scale_of(
        kernels.average(signs.data(), scales.data(), ranks_, error, block.count), block.count);
    own.scales[b - first_[rank_]] = scale;
    kernels.pack(error, scale, own.signs + block.signs, block.count);
  }
}

void CompressedAllReduce::run(float* x, float* worker_error, float* server_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  for (size_t r = 0; r < ranks_; ++r) *message(outgoing_, r, r).scales = 0;
  send_to_servers(x, worker_error, isa);
  communicator_.all_to_all(outgoing_->data(), incoming_->data(), message_);
  std::vector<size_t> broken;
  for (size_t r = 0; r < ranks_; ++r)
    if (std::isnan(*message(incoming_, rank_, r).scales)) broken.push_back(r);
  if (!broken.empty())
    throw EngineError(
        "NON_FINITE",
        "a vector to be compressed has a value that is not finite on " + names_of(broken),
        "compressedAllReduce", static_cast<int>(rank_));

  average(server_error, isa);
  gather_messages(communicator_, gathered_, message_);
  for (size_t r = 0; r < ranks_; ++r) {
    const Message from = message(gathered_, r, r);
    for (size_t b = first_[r]; b < first_[r + 1]; ++b)
      kernels.unpack(from.signs + blocks_[b].signs, from.scales[b - first_[r]],
                     x + blocks_[b].offset, blocks_[b].count);
  }
}

}  // namespace dsjs
