#include "ort/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "core/error.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr size_t kAlignment = 64;
// From here on blocks come from `allocate_private`, which asks for huge pages.
constexpr size_t kLarge = size_t{1} << 20;

thread_local WorkspacePool* current_pool = nullptr;

// Four classes per power of two: at most a fifth of a block is unused, and tensors of nearly the
// same size share blocks.
size_t size_class(size_t bytes) {
  const size_t size = std::max<size_t>(bytes, 256);
  const size_t step = std::bit_ceil(size) / 8;
  return (size + step - 1) / step * step;
}

WorkspacePool& process_pool() {
  static auto pool = std::make_shared<WorkspacePool>(std::make_shared<MemoryAccount>());
  return *pool;
}

}  // namespace

// Stands before each block. `owner` keeps the pool alive while the runtime holds the block.
struct alignas(kAlignment) WorkspacePool::Header {
  size_t capacity;
  std::shared_ptr<Buffer> large;
  std::shared_ptr<WorkspacePool> owner;
};

WorkspacePool::~WorkspacePool() { trim(); }

WorkspacePool::Header* WorkspacePool::allocate(size_t capacity) {
  const size_t bytes = sizeof(Header) + capacity;
  if (bytes >= kLarge) {
    auto buffer = allocate_private(bytes, Category::kWorkspace, account_);
    auto* header = new (buffer->data()) Header{capacity, nullptr, nullptr};
    header->large = std::move(buffer);
    return header;
  }
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (!memory) throw EngineError("OUT_OF_MEMORY", "no memory for the runtime's workspace");
  account_->add(Category::kWorkspace, bytes);
  return new (memory) Header{capacity, nullptr, nullptr};
}

void WorkspacePool::release(Header* header) {
  const size_t bytes = sizeof(Header) + header->capacity;
  // A large block contains its own header: take the owner out before the memory goes.
  auto large = std::move(header->large);
  header->~Header();
  if (large) return;
  std::free(header);
  account_->remove(Category::kWorkspace, bytes);
}

void* WorkspacePool::take(size_t bytes) {
  const size_t capacity = size_class(bytes);
  Header* header = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (auto it = unused_.find(capacity); it != unused_.end() && !it->second.empty()) {
      header = it->second.back();
      it->second.pop_back();
    }
  }
  try {
    if (!header) header = allocate(capacity);
  } catch (const EngineError&) {
    return nullptr;
  }
  header->owner = shared_from_this();
  return header + 1;
}

void WorkspacePool::give_back(void* memory) {
  if (!memory) return;
  Header* header = static_cast<Header*>(memory) - 1;
  const auto pool = std::move(header->owner);
  std::lock_guard lock(pool->mutex_);
  pool->unused_[header->capacity].push_back(header);
}

void WorkspacePool::trim() {
  std::unordered_map<size_t, std::vector<Header*>> unused;
  {
    std::lock_guard lock(mutex_);
    unused.swap(unused_);
  }
  for (auto& [capacity, headers] : unused)
    for (Header* header : headers) release(header);
}

WorkspaceScope::WorkspaceScope(WorkspacePool* pool) : previous_(current_pool) {
  current_pool = pool;
}

WorkspaceScope::~WorkspaceScope() { current_pool = previous_; }

OrtAllocator* workspace_allocator() {
  struct Registered : OrtAllocator {
    OrtMemoryInfo* info = nullptr;
  };
  static Registered* allocator = [] {
    auto* made = new Registered;
    made->version = api::kApiVersion;
    made->Alloc = [](OrtAllocator*, size_t size) -> void* {
      return (current_pool ? *current_pool : process_pool()).take(size);
    };
    made->Free = [](OrtAllocator*, void* memory) { WorkspacePool::give_back(memory); };
    made->Info = [](const OrtAllocator* self) -> const OrtMemoryInfo* {
      return static_cast<const Registered*>(self)->info;
    };
    made->Reserve = made->Alloc;
    constexpr int kDeviceAllocator = 0;  // not an arena: the runtime puts none in front of it
    check(api::CreateMemoryInfo("Cpu", kDeviceAllocator, 0, 0, &made->info), "create memory info");
    return made;
  }();
  return allocator;
}

}  // namespace dsjs::ort
