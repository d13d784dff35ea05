#include "comm/joint_buffer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/shared_memory.h"

namespace dsjs {
namespace {

size_t round_up(size_t value) { return (value + kSharedPage - 1) / kSharedPage * kSharedPage; }

}  // namespace

std::shared_ptr<Buffer> Communicator::allocate_joint(const std::vector<size_t>&, Category,
                                                     std::shared_ptr<MemoryAccount>) {
  throw EngineError("INVALID_ARGUMENT", "these ranks share no memory", "allocate", rank());
}

void Communicator::all_gather_joint(size_t, DType, const std::vector<Shard>&) {
  throw EngineError("INVALID_ARGUMENT", "these ranks share no memory", "allGather", rank());
}

std::vector<Shard> joint_parts(const std::vector<size_t>& bytes, int ranks) {
  if (bytes.size() != static_cast<size_t>(ranks))
    throw EngineError(
        "INVALID_ARGUMENT",
        std::to_string(bytes.size()) + " parts for " + std::to_string(ranks) + " ranks",
        "allocate");
  std::vector<Shard> parts;
  size_t begin = 0;
  for (const size_t own : bytes) {
    parts.push_back({begin, own});
    begin += own;
  }
  return parts;
}

size_t joint_pages(const std::vector<Shard>& parts, int member) {
  const Shard& part = parts[static_cast<size_t>(member)];
  return round_up(part.offset + part.count) - round_up(part.offset);
}

JointBuffer::JointBuffer(const std::shared_ptr<World>& world, int member,
                         const std::vector<Shard>& parts, std::vector<JointPart> joint,
                         std::shared_ptr<Buffer> own, Category category,
                         std::shared_ptr<MemoryAccount> account)
    : Buffer(parts.back().offset + parts.back().count, category),
      world_(world),
      parts_(std::move(joint)),
      member_(static_cast<size_t>(member)),
      own_bytes_(parts[static_cast<size_t>(member)].count),
      mapped_(std::max(round_up(bytes_), kSharedPage)),
      own_(std::move(own)),
      account_(std::move(account)) {
  std::vector<SharedPiece> pieces;
  for (const JointPart& part : parts_) pieces.push_back(part.arena->piece(part.offset, part.bytes));
  data_ = map_shared_pieces(pieces, mapped_);
  joint_ = true;
  if (account_) account_->add(category_, own_bytes_);
}

JointBuffer::~JointBuffer() {
  unmap_shared_memory(static_cast<char*>(data_), mapped_);
  if (account_) account_->remove(category_, own_bytes_);
  const auto members = static_cast<uint32_t>(parts_.size());
  const JointPart own = parts_[member_];
  for (const JointPart& part : parts_) part.released().fetch_add(1);
  // Peers may still compute with this part. Without a world nobody does.
  if (const auto world = world_.lock())
    world->keep_while(std::move(own_), [own, members] { return own.released().load() < members; });
}

}  // namespace dsjs
