// How arrays are cut and described, alike on every rank.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace dsjs {

struct Slice {
  size_t begin, end;
  size_t count() const { return end - begin; }
};

// Part `index` of `count` elements in `parts`. Slices start at multiples of 1,024 elements: whole
// cache lines and pages.
inline Slice slice(size_t count, int parts, int index) {
  constexpr size_t kUnit = 1024;
  const size_t units = (count + kUnit - 1) / kUnit;
  const auto bound = [&](int part) {
    const size_t unit = units * static_cast<size_t>(part) / static_cast<size_t>(parts);
    return std::min(count, unit * kUnit);
  };
  return {bound(index), bound(index + 1)};
}

// FNV-1a over the shard table, so that ranks with different tables notice.
inline uint64_t digest(const std::vector<Shard>& shards) {
  uint64_t hash = 14695981039346656037u;
  for (const Shard& shard : shards)
    for (size_t value : {shard.offset, shard.count}) hash = (hash ^ value) * 1099511628211u;
  return hash;
}

inline size_t largest_count(const std::vector<Shard>& shards) {
  size_t largest = 0;
  for (const Shard& shard : shards) largest = std::max(largest, shard.count);
  return largest;
}

// Throws INVALID_ARGUMENT for tables that no call of `members` ranks can have.
void check_shards(const char* operation, const std::vector<Shard>& shards, size_t count,
                  int members, int rank);

}  // namespace dsjs
