#include "io/checksums.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <utility>

#include "io/crc32c.h"

namespace dsjs::io {
namespace {

// From here on a chunk is worth another thread, which may have to wait for a core.
constexpr size_t kWorthLeaving = size_t{256} << 10;

// Of the calling thread alone.
void take_idle_time_only() {
#if defined(__linux__)
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);  // where it is refused, cores are shared as ever
#endif
}

}  // namespace

Checksums::Checksums(std::function<void(size_t group)> taken, bool beside_other_work)
    : taken_(std::move(taken)), hurried_(!beside_other_work) {}

Checksums::~Checksums() { stop(); }

void Checksums::add(const uint8_t* data, size_t bytes) {
  if (bytes < kWorthLeaving) return add_now(data, bytes);
  std::unique_lock lock(mutex_);
  if (!hurried_ && !idler_.joinable()) idler_ = std::thread([this] { serve(); });
  push({data, bytes, false, 0, false});
  while (hurried_ && !all_begun()) read_next(lock);
}

void Checksums::add_now(const uint8_t* data, size_t bytes) {
  const uint32_t checksum = crc32c(data, bytes, 0);
  std::lock_guard lock(mutex_);
  push({data, bytes, false, 0, true});
  checksums_.back() = checksum;
  tell();
}

void Checksums::end_group(size_t group) {
  std::lock_guard lock(mutex_);
  push({nullptr, 0, true, group, true});
  tell();
}

std::vector<uint32_t> Checksums::finish() {
  std::unique_lock lock(mutex_);
  while (told_ < chunks_.size()) {
    if (hurried_ && !all_begun())
      read_next(lock);
    else
      changed_.wait(lock);
  }
  std::vector<uint32_t> result;
  for (size_t index = 0; index < chunks_.size(); ++index)
    if (!chunks_[index].ends_group) result.push_back(checksums_[index]);
  return result;
}

void Checksums::hurry() {
  std::lock_guard lock(mutex_);
  hurried_ = true;
  changed_.notify_all();
}

void Checksums::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (idler_.joinable()) idler_.join();
}

void Checksums::push(Chunk chunk) {
  chunks_.push_back(chunk);
  checksums_.push_back(0);
  changed_.notify_all();
}

void Checksums::read_next(std::unique_lock<std::mutex>& lock) {
  Chunk& chunk = chunks_[begun_];
  uint32_t& checksum = checksums_[begun_];  // pushing moves nothing of a deque
  ++begun_;
  if (chunk.read) return;
  lock.unlock();
  const uint32_t result = crc32c(chunk.data, chunk.bytes, 0);
  lock.lock();
  checksum = result;
  chunk.read = true;
  tell();
}

void Checksums::tell() {
  for (; told_ < chunks_.size() && chunks_[told_].read; ++told_)
    if (chunks_[told_].ends_group && taken_) taken_(chunks_[told_].group);
  changed_.notify_all();
}

void Checksums::serve() {
  take_idle_time_only();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (all_begun())
      changed_.wait(lock);
    else
      read_next(lock);
  }
}

}  // namespace dsjs::io
