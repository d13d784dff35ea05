#include "aio/swap_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/limits.h"
#include "io/system_error.h"

namespace dsjs::aio {
namespace {

// Of copy_in and copy_out.
constexpr size_t kChunk = size_t{4} << 20;

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Aligned = std::unique_ptr<uint8_t, Free>;

Aligned aligned_memory(size_t bytes) {
  Aligned memory(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, bytes)));
  if (!memory)
    throw EngineError("OUT_OF_MEMORY", "no memory for a file buffer of " + format_bytes(bytes));
  return memory;
}

int open_new(const std::string& path, int flags) {
  return open(path.c_str(), flags | O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

// Some file systems open a file for direct I/O and then refuse it.
bool takes_direct_writes(int descriptor) {
  const Aligned block = aligned_memory(kAlignment);
  std::memset(block.get(), 0, kAlignment);
  return pwrite(descriptor, block.get(), kAlignment, 0) == static_cast<ssize_t>(kAlignment);
}

[[noreturn]] void too_small(const std::string& path, uint64_t bytes) {
  struct statvfs disk {};
  const bool known = statvfs(path.substr(0, path.rfind('/') + 1).c_str(), &disk) == 0;
  const uint64_t left = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  throw EngineError("IO_NO_SPACE",
                    "cannot reserve " + format_bytes(bytes) + " for " + path + ": " +
                        (known ? format_bytes(left) + " are free" : "the disk is full"),
                    "reserve");
}

// Takes the space where the file system can promise it. Elsewhere what is free now has to do.
void reserve(int descriptor, const std::string& path, uint64_t bytes) {
  const auto size = static_cast<off_t>(bytes);
#if defined(__linux__)
  int result;
  do {
    result = fallocate(descriptor, 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return;
  if (errno == ENOSPC || errno == EDQUOT) too_small(path, bytes);
  if (errno != EOPNOTSUPP && errno != ENOSYS)
    io::throw_system_error("reserve", path, errno, " (" + std::to_string(bytes) + " bytes)");
#endif
  struct statvfs disk {};
  if (fstatvfs(descriptor, &disk) == 0 &&
      static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize < bytes)
    too_small(path, bytes);
  if (ftruncate(descriptor, size) != 0)
    io::throw_system_error("reserve", path, errno, " (" + std::to_string(bytes) + " bytes)");
}

// A failure of a file that stands in for memory is told from one of any other by its operation.
template <class Move>
void named(const char* operation, Move&& move) {
  try {
    move();
  } catch (const EngineError& error) {
    throw EngineError(error.code(), error.what(), operation);
  }
}

}  // namespace

SwapFile::SwapFile(std::string path, uint64_t bytes, const Options& options)
    : path_(std::move(path)), bytes_(bytes), transfers_(options) {
  if (bytes % kAlignment != 0)
    throw EngineError("INVALID_ARGUMENT",
                      path_ + ": " + std::to_string(bytes) + " bytes are not a multiple of " +
                          std::to_string(kAlignment),
                      "create");
#if defined(O_DIRECT)
  descriptor_ = open_new(path_, O_DIRECT);
  direct_ = descriptor_ >= 0 && (bytes == 0 || takes_direct_writes(descriptor_));
  if (descriptor_ >= 0) unlink(path_.c_str());
  if (descriptor_ >= 0 && !direct_) {
    close(descriptor_);
    descriptor_ = -1;
  }
#endif
  if (descriptor_ < 0) {
    descriptor_ = open_new(path_, 0);
    if (descriptor_ < 0) io::throw_system_error("create", path_, errno);
    unlink(path_.c_str());
#if defined(F_NOCACHE)
    direct_ = fcntl(descriptor_, F_NOCACHE, 1) == 0;
#endif
  }
  try {
    reserve(descriptor_, path_, bytes);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

SwapFile::~SwapFile() { close(descriptor_); }

TransferStats SwapFile::stats() {
  std::lock_guard lock(mutex_);
  return transfers_.stats();
}

void SwapFile::check(const char* verb, const std::vector<Stretch>& stretches) const {
  for (const Stretch& stretch : stretches) {
    const std::string what = std::string("cannot ") + verb + " " + path_ + " (" +
                             std::to_string(stretch.bytes) + " bytes at " +
                             std::to_string(stretch.offset) + "): ";
    if (stretch.offset > bytes_ || stretch.bytes > bytes_ - stretch.offset)
      throw EngineError("INVALID_ARGUMENT",
                        what + "the file has " + std::to_string(bytes_) + " bytes", verb);
    if ((stretch.offset | stretch.bytes | reinterpret_cast<uintptr_t>(stretch.data)) % kAlignment)
      throw EngineError(
          "INVALID_ARGUMENT",
          what + "place, memory and length must be multiples of " + std::to_string(kAlignment),
          verb);
  }
}

void SwapFile::read(const std::vector<Stretch>& stretches) {
  check("read", stretches);
  std::lock_guard lock(mutex_);
  named("swapIn", [&] { transfers_.read(descriptor_, path_, stretches); });
}

void SwapFile::write(const std::vector<Stretch>& stretches) {
  check("write", stretches);
  std::lock_guard lock(mutex_);
  named("swapOut", [&] { transfers_.write(descriptor_, path_, stretches); });
}

// Calls each(whole, buffer, begin, count, done): `whole` is an aligned stretch of the file with
// `buffer` behind it, in which [begin, begin + count) are the caller's bytes from `done` on.
template <class Each>
void SwapFile::by_chunks(uint64_t offset, size_t bytes, Each&& each) {
  const Aligned buffer = aligned_memory(kChunk);
  for (size_t done = 0; done < bytes;) {
    const uint64_t at = offset + done;
    const uint64_t start = at / kAlignment * kAlignment;
    const size_t begin = at - start;
    const size_t count = std::min(kChunk - begin, bytes - done);
    const size_t length = (begin + count + kAlignment - 1) / kAlignment * kAlignment;
    each(Stretch{start, buffer.get(), length}, begin, count, done);
    done += count;
  }
}

void SwapFile::copy_out(uint64_t offset, void* target, size_t bytes) {
  by_chunks(offset, bytes, [&](const Stretch& whole, size_t begin, size_t count, size_t done) {
    read({whole});
    std::memcpy(static_cast<uint8_t*>(target) + done, whole.data + begin, count);
  });
}

void SwapFile::copy_in(uint64_t offset, const void* source, size_t bytes) {
  std::lock_guard lock(copying_in_);
  by_chunks(offset, bytes, [&](const Stretch& whole, size_t begin, size_t count, size_t done) {
    if (count < whole.bytes) read({whole});  // neighbours share its first or last block
    std::memcpy(whole.data + begin, static_cast<const uint8_t*>(source) + done, count);
    write({whole});
  });
}

}  // namespace dsjs::aio
