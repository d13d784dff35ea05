#include "comm/arena.h"

#include <unistd.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/shared_memory.h"

namespace dsjs {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// Whole pages, so that freed memory can go back to the system.
size_t pages(size_t bytes) { return round_up(bytes == 0 ? 1 : bytes, kSharedPage); }

}  // namespace

class ArenaBuffer final : public Buffer {
 public:
  ArenaBuffer(std::shared_ptr<Arena> arena, size_t offset, size_t bytes, Category category,
              std::shared_ptr<MemoryAccount> account)
      : Buffer(bytes, category), arena_(std::move(arena)), account_(std::move(account)) {
    data_ = arena_->base() + offset;
    shared_ = true;
    arena_offset_ = offset;
    if (account_) account_->add(category, bytes);
  }

  ~ArenaBuffer() override {
    if (account_) account_->remove(category_, bytes_);
    arena_->give_back(arena_offset_, pages(bytes_));
  }

 private:
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<MemoryAccount> account_;
};

Arena::Arena(int fd) : fd_(fd), reserve_(arena_reserve()), base_(map_shared_memory(fd, reserve_)) {}

Arena::~Arena() {
  unmap_shared_memory(base_, reserve_);
  close(fd_);
}

std::shared_ptr<Buffer> Arena::allocate(size_t bytes, Category category,
                                        std::shared_ptr<MemoryAccount> account) {
  const size_t length = pages(bytes);
  const size_t offset = take(length, bytes >= kHugePage ? kHugePage : kSharedPage);
  try {
    std::lock_guard lock(grow_mutex_);
    commit_shared_memory(fd_, base_, offset, length);
  } catch (...) {
    give_back(offset, length);
    throw;
  }
  return std::make_shared<ArenaBuffer>(shared_from_this(), offset, bytes, category,
                                       std::move(account));
}

int64_t Arena::locate(const void* data, size_t bytes) const {
  const char* start = static_cast<const char*>(data);
  if (start < base_ || start >= base_ + reserve_) return -1;
  if (bytes > static_cast<size_t>(base_ + reserve_ - start)) return -1;
  return start - base_;
}

// First fit, lowest address first: what lives long settles at the bottom.
size_t Arena::take(size_t bytes, size_t alignment) {
  std::lock_guard lock(mutex_);
  for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
    const auto [start, length] = *hole;
    const size_t offset = round_up(start, alignment);
    if (offset + bytes > start + length) continue;
    free_.erase(hole);
    if (offset > start) free_[start] = offset - start;
    if (offset + bytes < start + length) free_[offset + bytes] = start + length - offset - bytes;
    return offset;
  }
  const size_t offset = round_up(end_, alignment);
  if (bytes > reserve_ || offset > reserve_ - bytes)
    throw EngineError(
        "OUT_OF_MEMORY",
        "cannot allocate " + format_bytes(bytes) + ": more shared memory than twice the machine's",
        "allocate");
  if (offset > end_) free_[end_] = offset - end_;
  end_ = offset + bytes;
  return offset;
}

void Arena::give_back(size_t offset, size_t bytes) {
  release_shared_memory(fd_, base_, offset, bytes);
  std::lock_guard lock(mutex_);
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      bytes += before->second;
      free_.erase(before);
    }
  }
  if (offset + bytes == end_) {
    end_ = offset;
  } else {
    free_[offset] = bytes;
  }
}

}  // namespace dsjs
