// Memory that the engine owns, and the account of it. Every large allocation goes through here, so
// that `engine.memory()` can say where each byte is.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace dsjs {

enum class Category : int {
  kParameters,
  kGradients,
  kOptimizer,
  kMaster,
  kActivations,
  kInputs,
  kWindow,
  kWorkspace,
  kCommunication,
  kIo,
  kCount,
};

const char* category_name(Category category);
// Throws EngineError INVALID_ARGUMENT for an unknown name.
Category category_from_name(const std::string& name);

// Bytes now and at most, by category. Lock-free; shared by everything one engine allocates.
class MemoryAccount {
 public:
  void add(Category category, size_t bytes);
  void remove(Category category, size_t bytes);
  size_t current(Category category) const;
  size_t peak(Category category) const;
  size_t total() const { return total_.load(); }
  size_t peak_total() const { return peak_total_.load(); }
  uint64_t allocations() const { return allocations_.load(); }

 private:
  struct Cell {
    std::atomic<size_t> current{0};
    std::atomic<size_t> peak{0};
  };
  std::array<Cell, static_cast<int>(Category::kCount)> cells_;
  std::atomic<size_t> total_{0};
  std::atomic<size_t> peak_total_{0};
  std::atomic<uint64_t> allocations_{0};
};

// A block of memory with one owner. Movable is not needed: it lives behind shared_ptr, which every
// queued work that touches it holds, so that disposing in JavaScript never pulls memory from under
// a running kernel.
class Buffer {
 public:
  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Category category() const { return category_; }
  // Peers can read it at `arena_offset` of this rank's arena.
  bool shared() const { return shared_; }
  size_t arena_offset() const { return arena_offset_; }
  // Each rank has a part of it, and all see all of it.
  bool joint() const { return joint_; }

 protected:
  Buffer(size_t bytes, Category category) : bytes_(bytes), category_(category) {}
  void* data_ = nullptr;
  size_t bytes_;
  Category category_;
  bool shared_ = false;
  size_t arena_offset_ = 0;
  bool joint_ = false;
};

// Anonymous memory, zeroed, 64-byte aligned (2 MiB aligned and madvise'd to huge pages from 2 MiB
// up). Throws EngineError OUT_OF_MEMORY naming bytes and category.
std::shared_ptr<Buffer> allocate_private(size_t bytes, Category category,
                                         std::shared_ptr<MemoryAccount> account);

}  // namespace dsjs
