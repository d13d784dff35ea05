#include "io/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "io/system_error.h"

namespace dsjs::io {
namespace {

// What direct I/O asks of addresses in memory: the disk's blocks, of at most a page.
constexpr size_t kBlock = 512;

}  // namespace

File::File(const std::string& path, const std::string& name, int flags, const char* verb)
    : path_(path) {
  descriptor_ = open(name.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_system_error(verb, path_, errno);
}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

uint64_t File::size() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) throw_system_error("inspect", path_, errno);
  return static_cast<uint64_t>(status.st_size);
}

void File::sync() const {
#if defined(F_FULLFSYNC)
  if (fcntl(descriptor_, F_FULLFSYNC) == 0) return;
#endif
  // Some file systems cannot sync a folder and say so with EINVAL; there is nothing to add then.
  if (fsync(descriptor_) != 0 && errno != EINVAL) throw_system_error("sync", path_, errno);
}

size_t File::read_at(void* target, size_t bytes, uint64_t offset) const {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n =
        pread(descriptor_, static_cast<char*>(target) + done,
              std::min(bytes - done, size_t{1} << 30), static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_system_error("read", path_, errno, at(bytes, offset));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

void File::announce(uint64_t offset, size_t bytes) const {
#if defined(POSIX_FADV_WILLNEED)
  posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                POSIX_FADV_WILLNEED);  // advice
#else
  static_cast<void>(offset);
  static_cast<void>(bytes);
#endif
}

std::string File::at(uint64_t bytes, uint64_t offset) {
  return " (" + std::to_string(bytes) + " bytes at " + std::to_string(offset) + ")";
}

DirectFile::DirectFile(const std::string& name, int flags) {
#if defined(O_DIRECT)
  descriptor_ = open(name.c_str(), flags | O_DIRECT | O_CLOEXEC);
#else
  static_cast<void>(name);
  static_cast<void>(flags);
#endif
}

void DirectFile::drop() {
  if (there()) close(descriptor_);
  descriptor_ = -1;
}

bool DirectFile::takes(const void* data) { return reinterpret_cast<uintptr_t>(data) % kBlock == 0; }

size_t DirectFile::whole_pages(const void* data, size_t bytes, uint64_t offset) const {
  return there() && takes(data) && offset % kPage == 0 ? bytes - bytes % kPage : 0;
}

}  // namespace dsjs::io
