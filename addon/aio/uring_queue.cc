// io_uring (Linux 5.6 and later) by its system calls alone, so that nothing has to be installed.
// The layout of the rings is that of linux/io_uring.h; what is shared with the kernel is read with
// acquire and written with release ordering, as io_uring(7) asks.
#include "aio/request_queue.h"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.h"

namespace dsjs::aio {
namespace {

// Says that a read takes its offset from the request: came with the plain read and write requests.
constexpr uint32_t kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_RW_CUR_POS;
// The kernel counts a request's bytes in 32 bits and cuts longer ones short.
constexpr size_t kLongest = size_t{1} << 30;

[[noreturn]] void fail(const char* call) {
  throw EngineError("IO_ERROR", std::string(call) + ": " + std::strerror(errno), "io_uring");
}

int set_up(size_t depth, io_uring_params& params) {
  std::memset(&params, 0, sizeof params);
  const int ring = static_cast<int>(syscall(__NR_io_uring_setup, depth, &params));
  if (ring < 0 || (params.features & kNeeded) == kNeeded) return ring;
  close(ring);
  errno = ENOSYS;
  return -1;
}

// Shared with the kernel.
uint32_t load(const uint32_t* word) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(word)).load(std::memory_order_acquire);
}
void store(uint32_t* word, uint32_t value) {
  std::atomic_ref<uint32_t>(*word).store(value, std::memory_order_release);
}

class UringQueue final : public RequestQueue {
 public:
  UringQueue(int ring, const io_uring_params& params, size_t depth) : ring_(ring), slots_(depth) {
    rings_bytes_ = std::max(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                            params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
    entries_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
    rings_ = map(rings_bytes_, IORING_OFF_SQ_RING);
    entries_ = reinterpret_cast<io_uring_sqe*>(map(entries_bytes_, IORING_OFF_SQES));
    sq_tail_ = word(params.sq_off.tail);
    sq_mask_ = *word(params.sq_off.ring_mask);
    sq_array_ = word(params.sq_off.array);
    cq_head_ = word(params.cq_off.head);
    cq_tail_ = word(params.cq_off.tail);
    cq_mask_ = *word(params.cq_off.ring_mask);
    ended_ = reinterpret_cast<io_uring_cqe*>(rings_ + params.cq_off.cqes);
    for (uint32_t slot = 0; slot < depth; ++slot) free_.push_back(slot);
  }

  ~UringQueue() override {
    if (entries_) munmap(entries_, entries_bytes_);
    if (rings_) munmap(rings_, rings_bytes_);
    close(ring_);
  }

  void push(const Request& request) override {
    if (free_.empty()) throw EngineError("INTERNAL", "io_uring: more requests than its depth");
    const uint32_t slot = free_.back();
    free_.pop_back();
    slots_[slot] = request;
    // The kernel has taken whatever was submitted, so the entry of this place is free.
    const uint32_t tail = *sq_tail_;
    io_uring_sqe& entry = entries_[tail & sq_mask_];
    std::memset(&entry, 0, sizeof entry);
    entry.opcode = request.write ? IORING_OP_WRITE : IORING_OP_READ;
    entry.fd = request.descriptor;
    entry.addr = reinterpret_cast<uint64_t>(request.data);
    entry.len = static_cast<uint32_t>(std::min(request.bytes, kLongest));
    entry.off = request.offset;
    entry.user_data = slot;
    sq_array_[tail & sq_mask_] = tail & sq_mask_;
    store(sq_tail_, tail + 1);
    ++pushed_;
  }

  void submit() override {
    while (pushed_ > 0) pushed_ -= enter(pushed_, 0, 0);
  }

  void wait(std::vector<Completion>& ended) override {
    uint32_t head = *cq_head_;
    while (load(cq_tail_) == head) enter(0, 1, IORING_ENTER_GETEVENTS);
    for (const uint32_t tail = load(cq_tail_); head != tail; ++head) {
      const io_uring_cqe& entry = ended_[head & cq_mask_];
      const auto slot = static_cast<uint32_t>(entry.user_data);
      ended.push_back({slots_[slot], entry.res});
      free_.push_back(slot);
    }
    store(cq_head_, head);
  }

 private:
  uint8_t* map(size_t bytes, uint64_t what) const {
    void* place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_,
                       static_cast<off_t>(what));
    if (place == MAP_FAILED) fail("cannot map io_uring");
    return static_cast<uint8_t*>(place);
  }

  uint32_t* word(uint32_t offset) const { return reinterpret_cast<uint32_t*>(rings_ + offset); }

  uint32_t enter(uint32_t submit, uint32_t complete, uint32_t flags) const {
    for (;;) {
      const long done =
          syscall(__NR_io_uring_enter, ring_, submit, complete, flags, nullptr, size_t{0});
      if (done >= 0) return static_cast<uint32_t>(done);
      if (errno != EINTR && errno != EAGAIN && errno != EBUSY) fail("io_uring_enter");
    }
  }

  const int ring_;
  // What a completion's number stands for.
  std::vector<Request> slots_;
  std::vector<uint32_t> free_;
  uint32_t pushed_ = 0;
  uint8_t* rings_ = nullptr;
  io_uring_sqe* entries_ = nullptr;
  size_t rings_bytes_ = 0, entries_bytes_ = 0;
  uint32_t *sq_tail_, *sq_array_, *cq_head_, *cq_tail_;
  uint32_t sq_mask_, cq_mask_;
  io_uring_cqe* ended_;
};

}  // namespace

bool uring_available() {
  static const bool available = [] {
    io_uring_params params;
    const int ring = set_up(1, params);
    if (ring >= 0) close(ring);
    return ring >= 0;
  }();
  return available;
}

std::unique_ptr<RequestQueue> make_uring_queue(size_t depth) {
  if (!uring_available()) return nullptr;
  io_uring_params params;
  const int ring = set_up(depth, params);
  if (ring < 0) fail("cannot set up io_uring");
  return std::make_unique<UringQueue>(ring, params, depth);
}

}  // namespace dsjs::aio

#else

namespace dsjs::aio {

bool uring_available() { return false; }

std::unique_ptr<RequestQueue> make_uring_queue(size_t) { return nullptr; }

}  // namespace dsjs::aio

#endif
