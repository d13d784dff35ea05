#include "core/memory.h"

#include <sys/mman.h>

#include "core/error.h"
#include "core/limits.h"

namespace dsjs {
namespace {

constexpr const char* kCategoryNames[] = {"parameters",    "gradients", "optimizer", "master",
                                          "activations",   "inputs",    "window",    "workspace",
                                          "communication", "io"};
static_assert(std::size(kCategoryNames) == static_cast<size_t>(Category::kCount));

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
// From here on it is worth asking the system what is left: a few reads of /proc and /sys.
constexpr size_t kCheckedSize = size_t{16} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

[[noreturn]] void out_of_memory(size_t bytes, Category category) {
  throw EngineError("OUT_OF_MEMORY",
                    "cannot allocate " + format_bytes(bytes) + " for " + category_name(category) +
                        ": " + format_bytes(system_limits().memory_available) + " are available",
                    "allocate");
}

void raise_to(std::atomic<size_t>& peak, size_t value) {
  size_t seen = peak.load();
  while (seen < value && !peak.compare_exchange_weak(seen, value)) {
  }
}

// A mapping of whole pages; large ones start at a 2 MiB boundary and ask for huge pages.
class PrivateBuffer final : public Buffer {
 public:
  PrivateBuffer(size_t bytes, Category category, std::shared_ptr<MemoryAccount> account)
      : Buffer(bytes, category), account_(std::move(account)) {
    const bool large = bytes >= kHugePage;
    length_ = round_up(bytes == 0 ? 1 : bytes, kPage);
    const size_t asked = large ? length_ + kHugePage : length_;
    void* mapped = mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) out_of_memory(bytes, category);
    char* start = static_cast<char*>(mapped);
    if (large) {
      char* aligned =
          reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(start), kHugePage));
      if (aligned > start) munmap(start, aligned - start);
      const size_t behind = asked - (aligned - start) - length_;
      if (behind > 0) munmap(aligned + length_, behind);
      start = aligned;
#ifdef MADV_HUGEPAGE
      madvise(start, length_, MADV_HUGEPAGE);  // advice: a refusal costs speed only
#endif
    }
    data_ = start;
    if (account_) account_->add(category, bytes);
  }

  ~PrivateBuffer() override {
    munmap(data_, length_);
    if (account_) account_->remove(category_, bytes_);
  }

 private:
  std::shared_ptr<MemoryAccount> account_;
  size_t length_;
};

}  // namespace

const char* category_name(Category category) { return kCategoryNames[static_cast<int>(category)]; }

Category category_from_name(const std::string& name) {
  for (int index = 0; index < static_cast<int>(Category::kCount); ++index)
    if (name == kCategoryNames[index]) return static_cast<Category>(index);
  throw EngineError("INVALID_ARGUMENT", "\"" + name + "\" is not a memory category");
}

void MemoryAccount::add(Category category, size_t bytes) {
  Cell& cell = cells_[static_cast<int>(category)];
  raise_to(cell.peak, cell.current.fetch_add(bytes) + bytes);
  raise_to(peak_total_, total_.fetch_add(bytes) + bytes);
  allocations_.fetch_add(1);
}

void MemoryAccount::remove(Category category, size_t bytes) {
  cells_[static_cast<int>(category)].current.fetch_sub(bytes);
  total_.fetch_sub(bytes);
}

size_t MemoryAccount::current(Category category) const {
  return cells_[static_cast<int>(category)].current.load();
}

size_t MemoryAccount::peak(Category category) const {
  return cells_[static_cast<int>(category)].peak.load();
}

std::shared_ptr<Buffer> allocate_private(size_t bytes, Category category,
                                         std::shared_ptr<MemoryAccount> account) {
  if (bytes >= kCheckedSize && bytes > system_limits().memory_available)
    out_of_memory(bytes, category);
  return std::make_shared<PrivateBuffer>(bytes, category, std::move(account));
}

}  // namespace dsjs
