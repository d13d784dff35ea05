// One rank's shared memory, from which it allocates and which its peers read in place.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "core/memory.h"
#include "core/shared_memory.h"

namespace dsjs {

// A mapping of one rank's arena. The rank itself also allocates from it; no other rank has a part
// in that. Offsets mean the same in every process.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // Takes over `fd`.
  explicit Arena(int fd);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  char* base() const { return base_; }

  // Zeroed, committed memory; 2 MiB aligned from 2 MiB up. Throws OUT_OF_MEMORY. Thread-safe.
  std::shared_ptr<Buffer> allocate(size_t bytes, Category category,
                                   std::shared_ptr<MemoryAccount> account);

  // Offset of [data, data + bytes) in the arena, -1 when it lies elsewhere.
  int64_t locate(const void* data, size_t bytes) const;

  // For a mapping of their own: pages of what was allocated.
  SharedPiece piece(size_t offset, size_t bytes) const { return {fd_, offset, bytes}; }

 private:
  friend class ArenaBuffer;
  size_t take(size_t bytes, size_t alignment);
  void give_back(size_t offset, size_t bytes);

  int fd_;
  size_t reserve_;
  char* base_;
  // Held while the file grows: two threads that set its size from what they found would cut it.
  std::mutex grow_mutex_;
  std::mutex mutex_;
  // Free stretches below end_, offset → bytes, never touching each other.
  std::map<size_t, size_t> free_;
  size_t end_ = 0;
};

}  // namespace dsjs
