// Checksums of memory that is being written to a file. Beside other work they are left to a thread
// that gets the time in which cores would idle: the checksum of a file takes as long as reading all
// of its memory, and writing past the page cache takes hardly any.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dsjs::io {

class Checksums {
 public:
  // taken(group) is called when all that was added before `end_group(group)` has been read, in that
  // order, one call at a time, on any thread; it must not wait.
  explicit Checksums(std::function<void(size_t group)> taken = nullptr,
                     bool beside_other_work = false);
  ~Checksums();
  Checksums(const Checksums&) = delete;
  Checksums& operator=(const Checksums&) = delete;

  // The next chunk. A large one, beside other work, is read later: its memory stays as it is until
  // it is taken, or stop() returns.
  void add(const uint8_t* data, size_t bytes);
  // The next chunk, which is read at once.
  void add_now(const uint8_t* data, size_t bytes);
  void end_group(size_t group);
  // Waits for all, and returns their checksums in the order in which they were added.
  std::vector<uint32_t> finish();
  // From now on whoever adds and finishes reads as well: someone waits. Any thread may call it.
  void hurry();
  // Nothing is read any more. Idempotent.
  void stop();

 private:
  struct Chunk {
    const uint8_t* data;
    size_t bytes;
    // Of `taken` when this chunk has been read; it has no bytes then.
    bool ends_group;
    size_t group;
    bool read;
  };

  void push(Chunk chunk);
  bool all_begun() const { return begun_ == chunks_.size(); }
  // Reads the next chunk that nobody has begun. The lock is held.
  void read_next(std::unique_lock<std::mutex>& lock);
  // After a chunk has been read. The lock is held.
  void tell();
  void serve();

  const std::function<void(size_t group)> taken_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Chunk> chunks_;
  std::deque<uint32_t> checksums_;
  // Chunks that someone reads or has read, and those of which `taken` knows.
  size_t begun_ = 0, told_ = 0;
  bool hurried_;
  bool stopping_ = false;
  std::thread idler_;
};

}  // namespace dsjs::io
