// The collectives of hosts_group.h, whose head says what travels.
#include <algorithm>
#include <cstring>

#include "comm/hosts_timing.h"
#include "comm/reduce.h"
#include "comm/slice.h"
#include "core/error.h"

namespace dsjs {
namespace {

char* bytes_of(void* data) { return static_cast<char*>(data); }
const char* bytes_of(const void* data) { return static_cast<const char*>(data); }

void copy(void* target, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

// Elements [begin, begin + most) of every shard.
std::vector<Shard> window_of(const std::vector<Shard>& shards, size_t begin, size_t most) {
  std::vector<Shard> part;
  for (const Shard& shard : shards) {
    const size_t skipped = std::min(begin, shard.count);
    part.push_back({shard.offset + skipped, std::min(most, shard.count - skipped)});
  }
  return part;
}

}  // namespace

std::vector<const void*> HostsGroup::reduce_in_hosts(const std::vector<char>& deposits,
                                                     size_t stride, size_t offset, size_t count,
                                                     DType type, ReduceOp op,
                                                     std::vector<std::vector<char>>& sums) const {
  std::vector<const void*> results;
  sums.resize(hosts_.size());
  for (size_t host = 0; host < hosts_.size(); ++host) {
    std::vector<const void*> sources;
    for (int member : hosts_[host])
      sources.push_back(deposits.data() + static_cast<size_t>(member) * stride + offset);
    if (sources.size() > 1) {
      sums[host].resize(count * size_of(type));
      reduce_arrays(sources, {sums[host].data()}, count, type, op);
      sources[0] = sums[host].data();
    }
    results.push_back(sources[0]);
  }
  return results;
}

void HostsGroup::all_reduce(void* data, size_t count, DType type, ReduceOp op) {
  const size_t element = size_of(type), bytes = count * element;
  timed(Operation::kAllReduce, bytes, [&] {
    const bool small = bytes <= kSmallBytes;
    const std::vector<char> deposits = meet(Operation::kAllReduce, type, count,
                                            static_cast<uint64_t>(op), data, small ? bytes : 0);
    if (small) {
      std::vector<std::vector<char>> sums;
      const auto parts = reduce_in_hosts(deposits, bytes, 0, count, type, op, sums);
      return reduce_arrays(parts, {data}, count, type, op);
    }
    int used = run_->most_lanes;
    for (int host = 0; host < hosts(); ++host) used = std::min(used, lanes(host));
    const size_t window = kScratchBytes * static_cast<size_t>(used) / element;
    for (size_t begin = 0; begin < count; begin += window) {
      char* place = bytes_of(data) + begin * element;
      const size_t length = std::min(window, count - begin);
      std::vector<Shard> slices;
      for (int lane = 0; lane < lanes(host_); ++lane) {
        const Slice part = lane < used ? slice(length, used, lane) : Slice{0, 0};
        slices.push_back({part.begin, part.count()});
      }
      const Shard own = slices[static_cast<size_t>(lane_)];
      char* own_place = place + own.offset * element;
      const bool alone = lanes(host_) == 1;
      // In place: what a rank writes, no other rank of its host reads.
      if (!alone && op == ReduceOp::kSum)
        local_->reduce_scatter(place, length, type, slices, own_place, type, false);
      else if (!alone)
        local_->all_reduce(place, length, type, op);
      if (lane_ < used) reduce_between_hosts(own_place, own.count, type, op);
      if (!alone) local_->all_gather(place, length, type, slices);
    }
  });
}

void HostsGroup::reduce_between_hosts(char* data, size_t count, DType type, ReduceOp op) {
  const size_t element = size_of(type);
  const Slice own = slice(count, hosts(), host_);
  const size_t own_bytes = own.count() * element;
  char* room = scratch(static_cast<size_t>(hosts()) * own_bytes);
  std::vector<const void*> sources;
  std::vector<Outgoing> parts, whole;
  std::vector<Incoming> ours, theirs;
  for (int host = 0; host < hosts(); ++host) {
    const int peer = member_at(host, host == host_ ? 0 : lane_);
    const Slice part = slice(count, hosts(), host);
    char* place = data + part.begin * element;
    char* came = room + static_cast<size_t>(host) * own_bytes;
    sources.push_back(host == host_ ? place : came);
    if (host == host_) continue;
    parts.push_back({peer, place, part.count() * element});
    ours.push_back({peer, came, own_bytes});
    whole.push_back({peer, data + own.begin * element, own_bytes});
    theirs.push_back({peer, place, part.count() * element});
  }
  exchange(kData, parts, ours);
  reduce_arrays(sources, {data + own.begin * element}, own.count(), type, op);
  exchange(kData, whole, theirs);
}

std::vector<Shard> HostsGroup::shards_by_lane(const std::vector<Shard>& shards, int host,
                                              int round) const {
  std::vector<Shard> table;
  for (int lane = 0; lane < lanes(host_); ++lane) {
    const int served = round * lanes(host_) + lane;
    table.push_back(served < lanes(host) ? shards[static_cast<size_t>(member_at(host, served))]
                                         : Shard{0, 0});
  }
  return table;
}

void HostsGroup::reduce_scatter(const void* bucket, size_t count, DType type,
                                const std::vector<Shard>& shards, void* target, DType target_type,
                                bool accumulate) {
  check_shards(operation_name(Operation::kReduceScatter), shards, count, size(), run_->rank);
  const size_t element = size_of(type), bytes = count * element;
  const Shard own = shards[static_cast<size_t>(me_)];
  timed(Operation::kReduceScatter, bytes, [&] {
    const bool small = bytes <= kSmallBytes;
    const std::vector<char> deposits =
        meet(Operation::kReduceScatter, type, count, digest(shards), bucket, small ? bytes : 0);
    const auto deliver = [&](const std::vector<const void*>& sums, size_t begin, size_t length) {
      if (length > 0)
        sum_into(sums, bytes_of(target) + begin * size_of(target_type), target_type, length, type,
                 accumulate);
    };
    if (small) {
      std::vector<std::vector<char>> sums;
      return deliver(reduce_in_hosts(deposits, bytes, own.offset * element, own.count, type,
                                     ReduceOp::kSum, sums),
                     0, own.count);
    }
    // Each window: this host's sums of what its lanes serve, then the other hosts' sums of ours.
    size_t pieces = static_cast<size_t>(hosts());
    for (int host = 0; host < hosts(); ++host) pieces += static_cast<size_t>(rounds(host));
    // The most pieces that any host may need, so that all ranks have the same windows.
    const size_t most_pieces = 2 * static_cast<size_t>(size());
    const size_t window = std::max<size_t>(kScratchBytes / most_pieces / element, 1);
    const bool alone = lanes(host_) == 1;
    const size_t largest = largest_count(shards);
    for (size_t begin = 0; begin < largest; begin += window) {
      const std::vector<Shard> part = window_of(shards, begin, window);
      const size_t length = part[static_cast<size_t>(me_)].count;
      char* room = scratch(pieces * std::min(window, largest) * element);
      const auto next_piece = [&] {
        char* piece = room;
        room += std::min(window, largest) * element;
        return piece;
      };
      std::vector<const void*> sums(static_cast<size_t>(hosts()));
      std::vector<Outgoing> outgoing;
      std::vector<Incoming> incoming;
      for (int host = 0; host < hosts(); ++host) {
        for (int round = 0; round < rounds(host); ++round) {
          const std::vector<Shard> table = shards_by_lane(part, host, round);
          const Shard served = table[static_cast<size_t>(lane_)];
          const void* sum = bytes_of(bucket) + served.offset * element;
          if (!alone) {
            char* piece = next_piece();
            local_->reduce_scatter(bucket, count, type, table, piece, type, false);
            sum = piece;
          }
          const int lane = round * lanes(host_) + lane_;
          if (host == host_)
            sums[static_cast<size_t>(host)] = sum;
          else if (lane < lanes(host))
            outgoing.push_back({member_at(host, lane), sum, served.count * element});
        }
        if (host == host_) continue;
        char* piece = next_piece();
        incoming.push_back({member_at(host, lane_ % lanes(host)), piece, length * element});
        sums[static_cast<size_t>(host)] = piece;
      }
      exchange(kData, outgoing, incoming);
      deliver(sums, begin, length);
    }
  });
}

void HostsGroup::all_gather(void* data, size_t count, DType type,
                            const std::vector<Shard>& shards) {
  check_shards(operation_name(Operation::kAllGather), shards, count, size(), run_->rank);
  const size_t element = size_of(type);
  const auto place = [&](int member) {
    return bytes_of(data) + shards[static_cast<size_t>(member)].offset * element;
  };
  const auto length = [&](int member) {
    return shards[static_cast<size_t>(member)].count * element;
  };
  timed(Operation::kAllGather, count * element, [&] {
    const size_t largest = largest_count(shards) * element;
    const bool small = largest <= kSmallBytes;
    std::vector<char> deposit(small ? largest : 0);
    if (small) copy(deposit.data(), place(me_), length(me_));
    const std::vector<char> deposits =
        meet(Operation::kAllGather, type, count, digest(shards), deposit.data(), deposit.size());
    if (small) {
      for (int member = 0; member < size(); ++member)
        if (member != me_)
          copy(place(member), deposits.data() + static_cast<size_t>(member) * largest,
               length(member));
      return;
    }
    std::vector<Outgoing> outgoing;
    std::vector<Incoming> incoming;
    for (int host = 0; host < hosts(); ++host) {
      if (host == host_) continue;
      outgoing.push_back({member_at(host, lane_ % lanes(host)), place(me_), length(me_)});
      for (int lane = lane_; lane < lanes(host); lane += lanes(host_)) {
        const int owner = member_at(host, lane);
        incoming.push_back({owner, place(owner), length(owner)});
      }
    }
    exchange(kData, outgoing, incoming);
    if (lanes(host_) == 1) return;
    for (int host = 0; host < hosts(); ++host)
      for (int round = 0; round < rounds(host); ++round)
        local_->all_gather(data, count, type, shards_by_lane(shards, host, round));
  });
}

void HostsGroup::all_to_all(const void* input, void* output, size_t block_bytes) {
  const size_t bytes = block_bytes * static_cast<size_t>(size());
  timed(Operation::kAllToAll, bytes, [&] {
    meet(Operation::kAllToAll, DType::kUint8, bytes, 0);
    const auto block = [&](int member) { return static_cast<size_t>(member) * block_bytes; };
    std::vector<Outgoing> outgoing;
    std::vector<Incoming> incoming;
    for (int member = 0; member < size(); ++member) {
      if (host_of_[member] == host_) continue;
      outgoing.push_back({member, bytes_of(input) + block(member), block_bytes});
      incoming.push_back({member, bytes_of(output) + block(member), block_bytes});
    }
    const auto running = start(kData, outgoing, incoming);
    const auto& ours = hosts_[static_cast<size_t>(host_)];
    std::vector<char> given(ours.size() * block_bytes), taken(given.size());
    for (size_t lane = 0; lane < ours.size(); ++lane)
      copy(given.data() + lane * block_bytes, bytes_of(input) + block(ours[lane]), block_bytes);
    local_->all_to_all(given.data(), taken.data(), block_bytes);
    for (size_t lane = 0; lane < ours.size(); ++lane)
      copy(bytes_of(output) + block(ours[lane]), taken.data() + lane * block_bytes, block_bytes);
    wait(*running, incoming);
  });
}

void HostsGroup::broadcast(void* data, size_t bytes, int root) {
  check_member(Operation::kBroadcast, root);
  timed(Operation::kBroadcast, bytes, [&] {
    const bool small = bytes <= kSmallBytes;
    const std::vector<char> deposits = meet(Operation::kBroadcast, DType::kUint8, bytes,
                                            static_cast<uint64_t>(root), data, small ? bytes : 0);
    if (small) return copy(data, deposits.data() + static_cast<size_t>(root) * bytes, bytes);
    const int home = host_of_[root];
    std::vector<Outgoing> outgoing;
    for (int host = 0; host < hosts() && me_ == root; ++host)
      if (host != home) outgoing.push_back({member_at(host, 0), data, bytes});
    std::vector<Incoming> incoming;
    if (host_ != home && lane_ == 0) incoming.push_back({root, data, bytes});
    exchange(kData, outgoing, incoming);
    if (lanes(host_) > 1) local_->broadcast(data, bytes, host_ == home ? lane_of_[root] : 0);
  });
}

void HostsGroup::barrier() {
  timed(Operation::kBarrier, 0, [&] { meet(Operation::kBarrier, DType::kUint8, 0, 0); });
}

}  // namespace dsjs
