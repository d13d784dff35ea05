#include "comm/slice.h"

#include <string>

#include "core/error.h"

namespace dsjs {

void check_shards(const char* operation, const std::vector<Shard>& shards, size_t count,
                  int members, int rank) {
  if (shards.size() != static_cast<size_t>(members))
    throw EngineError(
        "INVALID_ARGUMENT",
        std::to_string(shards.size()) + " shards for " + std::to_string(members) + " ranks",
        operation, rank);
  for (const Shard& shard : shards)
    if (shard.offset > count || shard.count > count - shard.offset)
      throw EngineError("INVALID_ARGUMENT",
                        "shard [" + std::to_string(shard.offset) + ", +" +
                            std::to_string(shard.count) + ") of " + std::to_string(count) +
                            " elements",
                        operation, rank);
}

}  // namespace dsjs
