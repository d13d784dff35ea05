// Messages of the ranks, all of one length, back to back in memory that ranks share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace dsjs {

// Messages begin at cache lines.
constexpr size_t message_length(size_t bytes) {
  constexpr size_t kLine = 64;
  return (bytes + kLine - 1) / kLine * kLine;
}

inline float* message_at(const std::shared_ptr<Buffer>& buffer, size_t slot, size_t length) {
  return reinterpret_cast<float*>(static_cast<uint8_t*>(buffer->data()) + slot * length);
}

// Every rank has written its own; afterwards all have all.
inline void gather_messages(Communicator& communicator, void* messages, size_t length) {
  const auto ranks = static_cast<size_t>(communicator.size());
  const size_t words = length / sizeof(float);
  std::vector<Shard> shards(ranks);
  for (size_t r = 0; r < ranks; ++r) shards[r] = {r * words, words};
  communicator.all_gather(messages, ranks * words, DType::kFloat32, shards);
}

}  // namespace dsjs
