#include "comm/group.h"

#include <algorithm>
#include <cstring>

#include "comm/backends.h"
#include "comm/joint_buffer.h"
#include "comm/reduce.h"
#include "comm/slice.h"
#include "core/error.h"

namespace dsjs {
namespace {

// Up to so many ranks each reduces a staged chunk whole; beyond, reducing a slice each and copying
// the others' costs less than reading all N chunks.
constexpr int kReduceWholeChunk = 3;
void copy(void* target, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

char* bytes_of(void* data) { return static_cast<char*>(data); }
const char* bytes_of(const void* data) { return static_cast<const char*>(data); }

}  // namespace

Group::Group(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}

int64_t Group::locate(const void* data, size_t bytes) const { return arena().locate(data, bytes); }

std::shared_ptr<Buffer> Group::allocate_shared(size_t bytes, Category category,
                                               std::shared_ptr<MemoryAccount> account) {
  return arena().allocate(bytes, category, std::move(account));
}

Group::Way Group::start(Operation operation, DType type, uint64_t count, uint64_t detail,
                        const void* data, size_t bytes, size_t largest, Deposit deposit) {
  const bool small = largest <= Channel::kSmallBytes;
  channel_->begin(operation, type, count, detail, small ? -1 : locate(data, bytes));
  if (small) copy(channel_->small_half(channel_->member()), deposit.data, deposit.bytes);
  channel_->meet_and_compare();
  if (small) return Way::kSmall;
  for (int member = 0; member < size(); ++member) {
    if (channel_->descriptor(member).location >= 0) continue;
    open_staging();
    return Way::kStaged;
  }
  return Way::kDirect;
}

template <class Value, class Read>
void Group::exchange(Operation operation, uint64_t detail, const Value& own, const Read& read) {
  start(operation, DType::kUint8, sizeof own, detail, nullptr, 0, sizeof own, {&own, sizeof own});
  for (int member = 0; member < size(); ++member) {
    Value value;
    copy(&value, channel_->small_half(member), sizeof value);
    read(member, value);
  }
  channel_->complete();
}

template <class Body>
void Group::guarded(const Body& body) {
  try {
    body();
  } catch (...) {
    channel_->withdraw(std::current_exception());
    throw;
  }
}

template <class Body>
void Group::timed(Operation operation, size_t bytes, const Body& body) {
  CallTimer timer(stats_, operation_name(operation), bytes, channel_->waited_ns());
  guarded(body);
  timer.finish(channel_->waited_ns(), bytes_per_second_);
}

char* Group::chunk(int member) const {
  return channel_->large(member) + (chunk_step_ & 1) * kChunkBytes;
}

char* Group::message_staging() const { return channel_->large(rank()) + 2 * kChunkBytes; }

char* Group::peer_data(int member) const {
  return channel_->arena_base(member) + channel_->descriptor(member).location;
}

void Group::check_member(Operation operation, int member) const {
  if (member >= 0 && member < size()) return;
  throw EngineError("INVALID_ARGUMENT",
                    "rank " + std::to_string(member) + " is not one of the " +
                        std::to_string(size()) + " of this group",
                    operation_name(operation), rank());
}

void Group::all_reduce(void* data, size_t count, DType type, ReduceOp op) {
  const size_t element = size_of(type), bytes = count * element;
  const int members = size(), me = rank();
  timed(Operation::kAllReduce, bytes, [&] {
    const Way way = start(Operation::kAllReduce, type, count, static_cast<uint64_t>(op), data,
                          bytes, bytes, {data, bytes});
    std::vector<const void*> sources(static_cast<size_t>(members));
    if (way == Way::kSmall) {
      for (int member = 0; member < members; ++member)
        sources[member] = channel_->small_half(member);
      reduce_arrays(sources, {data}, count, type, op);
    } else if (way == Way::kDirect) {
      const Slice own = slice(count, members, me);
      std::vector<void*> targets(static_cast<size_t>(members));
      for (int member = 0; member < members; ++member)
        sources[member] = targets[member] = peer_data(member) + own.begin * element;
      reduce_arrays(sources, targets, own.end - own.begin, type, op);
      channel_->meet();
    } else {
      const size_t step = kChunkBytes / element;
      for (size_t begin = 0; begin < count; begin += step, ++chunk_step_) {
        const size_t length = std::min(step, count - begin);
        char* place = bytes_of(data) + begin * element;
        copy(chunk(me), place, length * element);
        channel_->meet();
        if (members <= kReduceWholeChunk) {
          for (int member = 0; member < members; ++member) sources[member] = chunk(member);
          reduce_arrays(sources, {place}, length, type, op);
          continue;
        }
        const Slice own = slice(length, members, me);
        for (int member = 0; member < members; ++member)
          sources[member] = chunk(member) + own.begin * element;
        reduce_arrays(sources, {chunk(me) + own.begin * element}, own.end - own.begin, type, op);
        channel_->meet();
        for (int member = 0; member < members; ++member) {
          const Slice part = slice(length, members, member);
          copy(place + part.begin * element, chunk(member) + part.begin * element,
               (part.end - part.begin) * element);
        }
      }
    }
    channel_->complete();
  });
}

void Group::reduce_scatter(const void* bucket, size_t count, DType type,
                           const std::vector<Shard>& shards, void* target, DType target_type,
                           bool accumulate) {
  check_shards(operation_name(Operation::kReduceScatter), shards, count, size(), rank());
  const size_t element = size_of(type), bytes = count * element;
  const int members = size(), me = rank();
  const Shard own = shards[static_cast<size_t>(me)];
  timed(Operation::kReduceScatter, bytes, [&] {
    const Way way = start(Operation::kReduceScatter, type, count, digest(shards), bucket, bytes,
                          bytes, {bucket, bytes});
    std::vector<const void*> sources(static_cast<size_t>(members));
    // Sums elements [begin, end) of the bucket, read at `base(member)`, into this rank's target.
    const auto sum = [&](size_t begin, size_t end, const auto& base) {
      if (begin >= end) return;
      for (int member = 0; member < members; ++member) sources[member] = base(member);
      sum_into(sources, bytes_of(target) + (begin - own.offset) * size_of(target_type), target_type,
               end - begin, type, accumulate);
    };
    const size_t own_end = own.offset + own.count;
    if (way == Way::kSmall) {
      sum(own.offset, own_end,
          [&](int member) { return channel_->small_half(member) + own.offset * element; });
    } else if (way == Way::kDirect) {
      sum(own.offset, own_end,
          [&](int member) { return peer_data(member) + own.offset * element; });
      channel_->meet();
    } else {
      const size_t step = kChunkBytes / element;
      for (size_t start = 0; start < count; start += step, ++chunk_step_) {
        const size_t length = std::min(step, count - start);
        copy(chunk(me), bytes_of(bucket) + start * element, length * element);
        channel_->meet();
        const size_t begin = std::max(start, own.offset);
        sum(begin, std::min(start + length, own_end),
            [&](int member) { return chunk(member) + (begin - start) * element; });
      }
    }
    channel_->complete();
  });
}

void Group::all_gather(void* data, size_t count, DType type, const std::vector<Shard>& shards) {
  check_shards(operation_name(Operation::kAllGather), shards, count, size(), rank());
  const size_t element = size_of(type), bytes = count * element;
  const int members = size(), me = rank();
  const size_t largest = largest_count(shards) * element;
  const auto shard_start = [&](int member) {
    return shards[static_cast<size_t>(member)].offset * element;
  };
  const auto shard_bytes = [&](int member) {
    return shards[static_cast<size_t>(member)].count * element;
  };
  char* own = bytes_of(data) + shard_start(me);
  timed(Operation::kAllGather, bytes, [&] {
    const Way way = start(Operation::kAllGather, type, count, digest(shards), data, bytes, largest,
                          {own, shard_bytes(me)});
    const auto take = [&](int member, size_t begin, size_t length, const char* source) {
      if (member != me) copy(bytes_of(data) + shard_start(member) + begin, source, length);
    };
    if (way == Way::kSmall) {
      for (int member = 0; member < members; ++member)
        take(member, 0, shard_bytes(member), channel_->small_half(member));
    } else if (way == Way::kDirect) {
      for (int member = 0; member < members; ++member)
        take(member, 0, shard_bytes(member), peer_data(member) + shard_start(member));
      channel_->meet();
    } else {
      const auto part = [&](int member, size_t begin) {
        return std::min(kChunkBytes, shard_bytes(member) - std::min(begin, shard_bytes(member)));
      };
      for (size_t begin = 0; begin < largest; begin += kChunkBytes, ++chunk_step_) {
        copy(chunk(me), own + begin, part(me, begin));
        channel_->meet();
        for (int member = 0; member < members; ++member)
          take(member, begin, part(member, begin), chunk(member));
      }
    }
    channel_->complete();
  });
}

void Group::all_gather_joint(size_t count, DType type, const std::vector<Shard>& shards) {
  check_shards(operation_name(Operation::kAllGatherJoint), shards, count, size(), rank());
  timed(Operation::kAllGatherJoint, count * size_of(type), [&] {
    start(Operation::kAllGatherJoint, type, count, digest(shards), nullptr, 0, 0, {});
    channel_->complete();
  });
}

// 1 meeting. Whose a page is, all compute alike.
std::shared_ptr<Buffer> Group::allocate_joint(const std::vector<size_t>& bytes, Category category,
                                              std::shared_ptr<MemoryAccount> account) {
  const std::vector<Shard> parts = joint_parts(bytes, size());
  std::vector<JointPart> joint;
  std::shared_ptr<Buffer> own, result;
  std::exception_ptr failure;  // of this rank
  int failed = -1;             // the first member that has one
  try {
    own = arena().allocate(joint_pages(parts, rank()) + kSharedPage, category, nullptr);
  } catch (...) {
    failure = std::current_exception();
  }
  timed(Operation::kAllocateJoint, 0, [&] {
    const int64_t location = own ? static_cast<int64_t>(own->arena_offset()) : -1;
    exchange(Operation::kAllocateJoint, digest(parts), location, [&](int member, int64_t theirs) {
      if (theirs < 0 && failed < 0) failed = member;
      joint.push_back({arena(member).shared_from_this(), static_cast<size_t>(theirs),
                       joint_pages(parts, member)});
    });
    if (failed < 0)
      result =
          std::make_shared<JointBuffer>(channel_->shared_world(), rank(), parts, std::move(joint),
                                        std::move(own), category, std::move(account));
  });
  if (failure) std::rethrow_exception(failure);
  if (failed >= 0)
    throw EngineError("COMM_PEER_LEFT",
                      "rank " + std::to_string(channel_->number(failed)) +
                          " has no memory for its part of what all ranks see",
                      "allocate", channel_->number(rank()), channel_->number(failed));
  return result;
}

void Group::all_to_all(const void* input, void* output, size_t block_bytes) {
  const int members = size(), me = rank();
  const size_t bytes = block_bytes * static_cast<size_t>(members);
  timed(Operation::kAllToAll, bytes, [&] {
    const Way way =
        start(Operation::kAllToAll, DType::kUint8, bytes, 0, input, bytes, bytes, {input, bytes});
    const auto block = [&](int member) { return static_cast<size_t>(member) * block_bytes; };
    if (way == Way::kSmall) {
      for (int member = 0; member < members; ++member)
        copy(bytes_of(output) + block(member), channel_->small_half(member) + block(me),
             block_bytes);
    } else if (way == Way::kDirect) {
      for (int member = 0; member < members; ++member)
        copy(bytes_of(output) + block(member), peer_data(member) + block(me), block_bytes);
      channel_->meet();
    } else {
      // A chunk holds the same stretch of every block, one after the other.
      const size_t step = kChunkBytes / static_cast<size_t>(members);
      for (size_t begin = 0; begin < block_bytes; begin += step, ++chunk_step_) {
        const size_t length = std::min(step, block_bytes - begin);
        for (int member = 0; member < members; ++member)
          copy(chunk(me) + static_cast<size_t>(member) * step,
               bytes_of(input) + block(member) + begin, length);
        channel_->meet();
        for (int member = 0; member < members; ++member)
          copy(bytes_of(output) + block(member) + begin,
               chunk(member) + static_cast<size_t>(me) * step, length);
      }
    }
    channel_->complete();
  });
}

void Group::broadcast(void* data, size_t bytes, int root) {
  check_member(Operation::kBroadcast, root);
  const bool is_root = rank() == root;
  timed(Operation::kBroadcast, bytes, [&] {
    // Only the root's memory is read in place; the others always have a place to be.
    const void* readable = is_root ? data : arena().base();
    const Way way = start(Operation::kBroadcast, DType::kUint8, bytes, static_cast<uint64_t>(root),
                          readable, is_root ? bytes : 0, bytes, {data, is_root ? bytes : 0});
    if (way == Way::kSmall) {
      if (!is_root) copy(data, channel_->small_half(root), bytes);
    } else if (way == Way::kDirect) {
      if (!is_root) copy(data, peer_data(root), bytes);
      channel_->meet();
    } else {
      for (size_t begin = 0; begin < bytes; begin += kChunkBytes, ++chunk_step_) {
        const size_t length = std::min(kChunkBytes, bytes - begin);
        if (is_root) copy(chunk(root), bytes_of(data) + begin, length);
        channel_->meet();
        if (!is_root) copy(bytes_of(data) + begin, chunk(root), length);
      }
    }
    channel_->complete();
  });
}

void Group::confer(const Descriptor& call, const void* note, const void* data, size_t bytes) {
  guarded([&] {
    channel_->begin(static_cast<Operation>(call.operation), static_cast<DType>(call.type),
                    call.count, call.detail, -1);
    copy(channel_->note(rank()), note, Channel::kNoteBytes);
    if (rank() != 0) copy(channel_->small_half(rank()), data, bytes);
    channel_->meet();
  });
}

void Group::tell(const void* note) {
  copy(channel_->answer(0), note, Channel::kNoteBytes);
  channel_->publish();
  channel_->complete();
}

const char* Group::hear() {
  guarded([&] {
    channel_->follow(0);
    channel_->complete();
  });
  return channel_->answer(0);
}

void Group::barrier() {
  timed(Operation::kBarrier, 0, [&] {
    start(Operation::kBarrier, DType::kUint8, 0, 0, nullptr, 0, 0, {});
    channel_->complete();
  });
}

std::unique_ptr<Communicator> Group::split(int color, int key) {
  struct Wish {
    int32_t color, key;
  };
  const int members = size(), me = rank();
  std::vector<int> group;  // members of the same color, in order
  std::unique_ptr<Channel> opened;
  std::exception_ptr failure;  // of this rank
  int failed = -1;             // the first member of the group that has one
  const auto tell = [&](const auto& own, const auto& read) {
    exchange(Operation::kSplit, 0, own, read);
  };
  timed(Operation::kSplit, 0, [&] {
    std::vector<int32_t> keys(static_cast<size_t>(members));
    tell(Wish{color, key}, [&](int member, const Wish& wish) {
      keys[static_cast<size_t>(member)] = wish.key;
      if (color >= 0 && wish.color == color) group.push_back(member);
    });
    std::stable_sort(group.begin(), group.end(), [&](int a, int b) {
      return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
    });

    // The first of each group takes a channel for it and tells the others.
    int32_t channel = -1;
    const bool first = !group.empty() && group.front() == me;
    if (first) channel = channel_->world().control().take_channel(static_cast<int>(group.size()));
    tell(channel, [&](int member, int32_t theirs) {
      if (!group.empty() && member == group.front()) channel = theirs;
    });

    // A member that cannot open it tells them too: they would wait for it in the group's first
    // call.
    if (!group.empty()) try {
        opened = open_group(group, channel);
      } catch (...) {
        failure = std::current_exception();
      }
    tell(static_cast<int32_t>(failure != nullptr), [&](int member, int32_t has_failed) {
      const bool of_us = std::find(group.begin(), group.end(), member) != group.end();
      if (of_us && has_failed != 0 && failed < 0) failed = member;
    });
  });
  if (failure) std::rethrow_exception(failure);
  if (failed >= 0)
    throw EngineError(
        "COMM_PEER_LEFT",
        "rank " + std::to_string(channel_->number(failed)) + " could not open the new group",
        "split", channel_->number(me), channel_->number(failed));
  return group.empty() ? nullptr : std::make_unique<Group>(std::move(opened));
}

std::unique_ptr<Channel> Group::open_group(const std::vector<int>& group, int channel) const {
  if (channel < 0)
    throw EngineError("LIMIT",
                      "too many groups at once: a run has " +
                          std::to_string(ControlPage::kChannels - ControlPage::kBaseChannels) +
                          "; dispose of some",
                      "split", rank());
  std::vector<int> world_ranks;
  for (int member : group) world_ranks.push_back(channel_->world_rank(member));
  const auto place = std::find(group.begin(), group.end(), rank()) - group.begin();
  return std::make_unique<Channel>(channel_->shared_world(), channel, channel_->base(),
                                   std::move(world_ranks), static_cast<int>(place),
                                   channel_->hang_timeout_ms());
}

void Group::leave(const std::string& reason) {
  channel_->world().control().leave(channel_->world_rank(rank()), reason);
  channel_->withdraw(std::make_exception_ptr(
      EngineError("COMM_PEER_LEFT", "this rank has left the run: " + reason, "leave", rank())));
}

namespace {

std::unique_ptr<Communicator> join(std::shared_ptr<World> world, int rank, double hang_timeout_ms) {
  std::vector<int> ranks;
  for (int other = 0; other < world->size(); ++other) ranks.push_back(other);
  const int channel = world->join(rank);
  return std::make_unique<Group>(std::make_unique<Channel>(
      std::move(world), channel, channel, std::move(ranks), rank, hang_timeout_ms));
}

void check_rank(int rank, size_t size) {
  if (size == 0 || rank < 0 || static_cast<size_t>(rank) >= size)
    throw EngineError("INVALID_ARGUMENT",
                      "rank " + std::to_string(rank) + " of " + std::to_string(size),
                      "createCommunicator");
}

}  // namespace

std::unique_ptr<Communicator> make_shm(int rank, int control_fd, const std::vector<int>& arena_fds,
                                       double hang_timeout_ms) {
  check_rank(rank, arena_fds.size());
  return join(World::inherited(control_fd, arena_fds, rank), rank, hang_timeout_ms);
}

std::unique_ptr<Communicator> make_inprocess(const std::string& key, int rank, int world_size,
                                             double hang_timeout_ms) {
  check_rank(rank, world_size < 0 ? 0 : static_cast<size_t>(world_size));
  return join(World::inprocess(key, world_size), rank, hang_timeout_ms);
}

}  // namespace dsjs
