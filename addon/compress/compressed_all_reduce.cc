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
                                         std::shared_ptr<MemoryAccount> account,
                                         size_t chunk_elements)
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
    const size_t end = count_ / ranks_ * (r + 1) + count_ % ranks_ * (r + 1) / ranks_;
    while (next < blocks_.size() && blocks_[next].offset < end) ++next;
  }
  first_.push_back(next);
  const size_t chunks = std::clamp<size_t>(count_ / chunk_elements, 1, kMostChunks);
  for (size_t chunk = 0; chunk < chunks; ++chunk) make_chunk(chunk, chunks);
  for (auto* staging : {&outgoing_, &incoming_, &gathered_})
    *staging = communicator.allocate_shared(ranks_ * message_, Category::kCommunication, account);
}

void CompressedAllReduce::make_chunk(size_t index, size_t chunks) {
  Chunk chunk{ranks_ * message_, 0, {}, {}};
  for (size_t r = 0; r < ranks_; ++r) {
    const size_t served = first_[r + 1] - first_[r];
    chunk.first.push_back(first_[r] + served * index / chunks);
    chunk.end.push_back(first_[r] + served * (index + 1) / chunks);
    size_t bytes = 0;
    for (size_t b = chunk.first[r]; b < chunk.end[r]; ++b) {
      blocks_[b].signs = bytes;
      bytes += sign_bytes(blocks_[b].count);
    }
    chunk.message =
        std::max(chunk.message, (chunk.end[r] - chunk.first[r]) * sizeof(float) + bytes);
  }
  // At least one scale, in which a rank can say that it cannot take part.
  chunk.message = message_length(std::max(chunk.message, sizeof(float)));
  message_ += chunk.message;
  chunks_.push_back(std::move(chunk));
}

size_t CompressedAllReduce::begin_of(size_t rank) const {
  return first_[rank] < blocks_.size() ? blocks_[first_[rank]].offset : count_;
}

std::byte* CompressedAllReduce::staging(const std::shared_ptr<Buffer>& buffer, const Chunk& chunk,
                                        size_t slot) const {
  return static_cast<std::byte*>(buffer->data()) + chunk.offset + slot * chunk.message;
}

CompressedAllReduce::Message CompressedAllReduce::message(const std::shared_ptr<Buffer>& buffer,
                                                          const Chunk& chunk, size_t server,
                                                          size_t slot) const {
  auto* scales = reinterpret_cast<float*>(staging(buffer, chunk, slot));
  return {scales, reinterpret_cast<uint8_t*>(scales + (chunk.end[server] - chunk.first[server]))};
}

// Where an element is not finite, every server is told by its first scale, so that all ranks stop
// at the same place.
void CompressedAllReduce::pack(size_t index, const float* x, float* worker_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  const Chunk& chunk = chunks_[index];
  bool finite = true;
  for (size_t r = 0; r < ranks_; ++r) {
    const Message to = message(outgoing_, chunk, r, r);
    *to.scales = 0;  // also where there is no block
    for (size_t b = chunk.first[r]; b < chunk.end[r]; ++b) {
      const Block& block = blocks_[b];
      float* error = worker_error + block.offset;
      const float scale =
          scale_of(kernels.compensate(x + block.offset, error, block.count), block.count);
      finite = finite && std::isfinite(scale);
      to.scales[b - chunk.first[r]] = scale;
      kernels.pack(error, scale, to.signs + block.signs, block.count);
    }
  }
  if (finite) return;
  for (size_t r = 0; r < ranks_; ++r)
    *message(outgoing_, chunk, r, r).scales = std::numeric_limits<float>::quiet_NaN();
}

void CompressedAllReduce::exchange(size_t index) {
  const Chunk& chunk = chunks_[index];
  communicator_.all_to_all(staging(outgoing_, chunk, 0), staging(incoming_, chunk, 0),
                           chunk.message);
  std::vector<size_t> broken;
  for (size_t r = 0; r < ranks_; ++r)
    if (std::isnan(*message(incoming_, chunk, rank_, r).scales)) broken.push_back(r);
  if (!broken.empty())
    throw EngineError(
        "NON_FINITE",
        "a vector to be compressed has a value that is not finite on " + names_of(broken),
        "compressedAllReduce", static_cast<int>(rank_));
}

void CompressedAllReduce::average(size_t index, float* server_error, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  const Chunk& chunk = chunks_[index];
  const Message own = message(gathered_, chunk, rank_, rank_);
  std::vector<const uint8_t*> signs(ranks_);
  std::vector<float> scales(ranks_);
  for (size_t b = chunk.first[rank_]; b < chunk.end[rank_]; ++b) {
    const Block& block = blocks_[b];
    const size_t at = b - chunk.first[rank_];
    for (size_t r = 0; r < ranks_; ++r) {
      const Message from = message(incoming_, chunk, rank_, r);
      scales[r] = from.scales[at];
      signs[r] = from.signs + block.signs;
    }
    float* error = server_error + (block.offset - begin_of(rank_));
    const float scale = scale_of(
        kernels.average(signs.data(), scales.data(), ranks_, error, block.count), block.count);
    own.scales[at] = scale;
    kernels.pack(error, scale, own.signs + block.signs, block.count);
  }
}

void CompressedAllReduce::gather(size_t index) {
  const Chunk& chunk = chunks_[index];
  gather_messages(communicator_, staging(gathered_, chunk, 0), chunk.message);
}

void CompressedAllReduce::unpack(size_t index, float* x, Isa isa) {
  const SignKernels& kernels = sign_kernels(isa);
  const Chunk& chunk = chunks_[index];
  for (size_t r = 0; r < ranks_; ++r) {
    const Message from = message(gathered_, chunk, r, r);
    for (size_t b = chunk.first[r]; b < chunk.end[r]; ++b)
      kernels.unpack(from.signs + blocks_[b].signs, from.scales[b - chunk.first[r]],
                     x + blocks_[b].offset, blocks_[b].count);
  }
}

void CompressedAllReduce::run(float* x, float* worker_error, float* server_error, Isa isa) {
  const auto each = [&](const auto& step) {
    for (size_t chunk = 0; chunk < chunks(); ++chunk) step(chunk);
  };
  each([&](size_t chunk) { pack(chunk, x, worker_error, isa); });
  each([&](size_t chunk) { exchange(chunk); });
  each([&](size_t chunk) { average(chunk, server_error, isa); });
  each([&](size_t chunk) { gather(chunk); });
  each([&](size_t chunk) { unpack(chunk, x, isa); });
}

}  // namespace dsjs
