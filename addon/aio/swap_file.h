// A file of a fixed size that stands in for memory while a run lasts. It has no name once it is
// open, so that nothing is left on the disk however the run ends, and its space is taken at the
// start: a disk that is too small is found before the first step.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "aio/transfer.h"

namespace dsjs::aio {

// Methods may be called from any thread; one transfer runs at a time.
class SwapFile {
 public:
  // Creates `path`, which must not exist, with `bytes` (a multiple of kAlignment) that read as
  // zeros, and removes its name. Opened for direct I/O where the file system can, which direct()
  // says. Throws EngineError IO_NO_SPACE naming what is needed and what there is, and the other
  // codes of io/files.h.
  SwapFile(std::string path, uint64_t bytes, const Options& options);
  ~SwapFile();
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  // What it was called, for messages.
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  bool direct() const { return direct_; }
  Backend backend() const { return transfers_.backend(); }
  TransferStats stats();

  // Offsets, addresses and lengths are multiples of kAlignment. Throws INVALID_ARGUMENT for
  // others, and for what lies outside the file.
  void read(const std::vector<Stretch>& stretches);
  void write(const std::vector<Stretch>& stretches);

  // Any offsets, addresses and lengths, through a buffer of its own: for set-up and checkpoints.
  void copy_out(uint64_t offset, void* target, size_t bytes);
  void copy_in(uint64_t offset, const void* source, size_t bytes);

 private:
  void check(const char* verb, const std::vector<Stretch>& stretches) const;
  template <class Each>
  void by_chunks(uint64_t offset, size_t bytes, Each&& each);

  const std::string path_;
  const uint64_t bytes_;
  int descriptor_ = -1;
  bool direct_ = false;
  std::mutex mutex_;
  // One copy_in at a time: what two write may share a block, which each reads, changes and writes.
  std::mutex copying_in_;
  Transfers transfers_;
};

}  // namespace dsjs::aio
