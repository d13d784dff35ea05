// Memory of which each rank of a machine has a part and sees all: the parts' pages, mapped one
// behind the other. A rank's part goes back to its arena when no rank maps it any more.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/world.h"

namespace dsjs {

// The parts' places in the whole, in bytes. Throws INVALID_ARGUMENT where they are not one a rank.
std::vector<Shard> joint_parts(const std::vector<size_t>& bytes, int ranks);
// Bytes of the whole pages that the member has: those that begin in its part.
size_t joint_pages(const std::vector<Shard>& parts, int member);

// A member's pages. A word behind them counts who maps them no more.
struct JointPart {
  std::shared_ptr<Arena> arena;
  size_t offset;
  size_t bytes;

  std::atomic<uint32_t>& released() const {
    return *reinterpret_cast<std::atomic<uint32_t>*>(arena->base() + offset + bytes);
  }
};

class JointBuffer final : public Buffer {
 public:
  // `own` are this member's pages, one of `joint`.
  JointBuffer(const std::shared_ptr<World>& world, int member, const std::vector<Shard>& parts,
              std::vector<JointPart> joint, std::shared_ptr<Buffer> own, Category category,
              std::shared_ptr<MemoryAccount> account);
  ~JointBuffer() override;

 private:
  std::weak_ptr<World> world_;
  std::vector<JointPart> parts_;
  size_t member_, own_bytes_, mapped_;
  std::shared_ptr<Buffer> own_;
  std::shared_ptr<MemoryAccount> account_;
};

}  // namespace dsjs
