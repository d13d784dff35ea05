// The other collectives of hosts_group.h, whose head says what travels.
#include <algorithm>
#include <cstring>
#include <utility>

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
    const bool small = bytes <= small_sum_bytes();
    const Meeting meeting = meet(Operation::kReduceScatter, type, count, digest(shards),
                                 small ? of_host(bucket, count, type, ReduceOp::kSum) : Deposit{});
    const auto deliver = [&](const std::vector<const void*>& sums, size_t begin, size_t length) {
      if (length > 0)
        sum_into(sums, bytes_of(target) + begin * size_of(target_type), target_type, length, type,
                 accumulate);
    };
    if (small) {
      std::vector<const void*> sums;
      for (const char* part : meeting.parts) sums.push_back(part + own.offset * element);
      return deliver(sums, 0, own.count);
    }
    // Each window: this host's sums of what its lanes serve, then the other hosts' sums of ours.
    // One is on its way while the one before is added.
    size_t pieces = static_cast<size_t>(hosts());
    for (int host = 0; host < hosts(); ++host) pieces += static_cast<size_t>(rounds(host));
    // The most pieces that any host may need, so that all ranks have the same windows.
    const size_t most_pieces = 2 * static_cast<size_t>(size());
    const size_t step = std::max<size_t>(kScratchBytes / 2 / most_pieces / element, 1);
    const size_t largest = largest_count(shards);
    const size_t windows = (largest + step - 1) / step;
    const size_t piece_bytes = std::min(step, largest) * element;
    char* const room = scratch(2 * pieces * piece_bytes);
    struct Window {
      size_t begin, length;
      std::vector<const void*> sums;  // by host
      std::vector<Incoming> incoming;
      std::unique_ptr<Exchange> exchange;
    };
    Window under_way[2];
    for (size_t turn = 0; turn <= windows; ++turn) {
      if (turn < windows) {
        const std::vector<Shard> part = window_of(shards, turn * step, step);
        Window& window = under_way[turn % 2];
        window = {turn * step, part[static_cast<size_t>(me_)].count, {}, {}, nullptr};
        char* piece = room + turn % 2 * pieces * piece_bytes;
        const auto next_piece = [&] { return std::exchange(piece, piece + piece_bytes); };
        std::vector<Outgoing> outgoing;
        window.sums.resize(static_cast<size_t>(hosts()));
        for (int host = 0; host < hosts(); ++host) {
          for (int round = 0; round < rounds(host); ++round) {
            const std::vector<Shard> table = shards_by_lane(part, host, round);
            const Shard served = table[static_cast<size_t>(lane_)];
            const void* sum = bytes_of(bucket) + served.offset * element;
            if (lanes(host_) > 1) {
              char* own_sum = next_piece();
              local_->reduce_scatter(bucket, count, type, table, own_sum, type, false);
              sum = own_sum;
            }
            const int lane = round * lanes(host_) + lane_;
            if (host == host_)
              window.sums[static_cast<size_t>(host)] = sum;
            else if (lane < lanes(host))
              outgoing.push_back({member_at(host, lane), sum, served.count * element});
          }
          if (host == host_) continue;
          char* theirs = next_piece();
          window.incoming.push_back(
              {member_at(host, lane_ % lanes(host)), theirs, window.length * element});
          window.sums[static_cast<size_t>(host)] = theirs;
        }
        window.exchange = start(kData, outgoing, window.incoming);
      }
      if (turn == 0) continue;
      Window& window = under_way[(turn - 1) % 2];
      wait(*window.exchange, window.incoming);
      deliver(window.sums, window.begin, window.length);
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
    const Meeting meeting =
        meet(Operation::kAllGather, type, count, digest(shards), {deposit.data(), deposit.size()});
    if (small) {
      for (int member = 0; member < size(); ++member)
        if (member != me_)
          copy(place(member), deposit_of(meeting, member, largest), length(member));
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
    meet(Operation::kAllToAll, DType::kUint8, bytes, 0, {});
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
    const Meeting meeting = meet(Operation::kBroadcast, DType::kUint8, bytes,
                                 static_cast<uint64_t>(root), {data, small ? bytes : 0});
    if (small) return copy(data, deposit_of(meeting, root, bytes), bytes);
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
  timed(Operation::kBarrier, 0, [&] { meet(Operation::kBarrier, DType::kUint8, 0, 0, {}); });
}

}  // namespace dsjs
