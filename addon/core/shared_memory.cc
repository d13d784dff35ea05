#include "core/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/limits.h"

namespace dsjs {
namespace {

[[noreturn]] void fail(const std::string& what, int error) {
  throw EngineError("SYSTEM", what + ": " + std::strerror(error), "sharedMemory");
}

[[noreturn]] void out_of_memory(size_t bytes) {
  throw EngineError("OUT_OF_MEMORY",
                    "cannot allocate " + format_bytes(bytes) + " of shared memory: " +
                        format_bytes(system_limits().memory_available) + " are available",
                    "allocate");
}

constexpr size_t kCheckedSize = size_t{16} << 20;
#if defined(__linux__)
constexpr size_t kHugePage = size_t{2} << 20;
#endif

}  // namespace

size_t arena_reserve() {
  constexpr size_t unit = size_t{1} << 30;
  const size_t physical =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (2 * physical + unit - 1) / unit * unit;
}

#if defined(__linux__)

int create_shared_memory(const char* label, size_t) {
  const int fd = memfd_create(label, MFD_CLOEXEC);
  if (fd < 0) fail("cannot create shared memory", errno);
  return fd;
}

char* map_shared_memory(int fd, size_t reserve) {
  // Huge pages need a start at a multiple of their size: reserve more, then map inside.
  const size_t slack = reserve >= kHugePage ? kHugePage : 0;
  void* room =
      mmap(nullptr, reserve + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) fail("cannot reserve address space", errno);
  char* start = static_cast<char*>(room);
  char* base = start;
  if (slack > 0) {
    base += (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
    if (base > start) munmap(start, static_cast<size_t>(base - start));
    const size_t behind = slack - static_cast<size_t>(base - start);
    if (behind > 0) munmap(base + reserve, behind);
  }
  // Past the end of the file: pages appear there as the file grows, in every mapping.
  if (mmap(base, reserve, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) ==
      MAP_FAILED) {
    const int error = errno;
    munmap(base, reserve);
    fail("cannot map shared memory", error);
  }
  madvise(base, reserve, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  madvise(base, reserve, MADV_DONTDUMP);
  return base;
}

void commit_shared_memory(int fd, char* base, size_t offset, size_t bytes) {
  if (bytes >= kCheckedSize && bytes > system_limits().memory_available) out_of_memory(bytes);
  struct stat status;
  if (fstat(fd, &status) != 0) fail("cannot size shared memory", errno);
  const size_t old_size = static_cast<size_t>(status.st_size);
  if (offset + bytes > old_size && ftruncate(fd, static_cast<off_t>(offset + bytes)) != 0)
    fail("cannot grow shared memory", errno);
    // Populating through the mapping gets huge pages, which allocating by file does not.
#ifdef MADV_POPULATE_WRITE
  if (madvise(base + offset, bytes, MADV_POPULATE_WRITE) == 0) return;
  const bool unsupported = errno == EINVAL;
#else
  const bool unsupported = true;
#endif
  if (unsupported && fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                               static_cast<off_t>(bytes)) == 0)
    return;
  release_shared_memory(fd, base, offset, bytes);
  out_of_memory(bytes);
}

void release_shared_memory(int fd, char*, size_t offset, size_t bytes) {
  fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
            static_cast<off_t>(bytes));
}

#else

int create_shared_memory(const char*, size_t reserve) {
  static std::atomic<unsigned> counter{0};
  const std::string name =
      "/dsjs." + std::to_string(getpid()) + "." + std::to_string(counter.fetch_add(1));
  const int fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) fail("cannot create shared memory", errno);
  shm_unlink(name.c_str());
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  // The size can be set once only; pages are taken when they are first touched.
  if (ftruncate(fd, static_cast<off_t>(reserve)) != 0) {
    const int error = errno;
    close(fd);
    fail("cannot size shared memory", error);
  }
  return fd;
}

char* map_shared_memory(int fd, size_t reserve) {
  void* base = mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) fail("cannot map shared memory", errno);
  return static_cast<char*>(base);
}

void commit_shared_memory(int, char* base, size_t offset, size_t bytes) {
  if (bytes > system_limits().memory_available) out_of_memory(bytes);
  std::memset(base + offset, 0, bytes);
}

void release_shared_memory(int, char* base, size_t offset, size_t bytes) {
  madvise(base + offset, bytes, MADV_FREE);
}

#endif

void unmap_shared_memory(char* base, size_t reserve) { munmap(base, reserve); }

char* map_shared_pieces(const std::vector<SharedPiece>& pieces, size_t bytes) {
  void* room = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) fail("cannot reserve address space", errno);
  char* base = static_cast<char*>(room);
  char* place = base;
  for (const SharedPiece& piece : pieces) {
    if (piece.bytes == 0) continue;
    if (mmap(place, piece.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, piece.fd,
             static_cast<off_t>(piece.offset)) == MAP_FAILED) {
      const int error = errno;
      munmap(base, bytes);
      fail("cannot map shared memory", error);
    }
    place += piece.bytes;
  }
#if defined(__linux__)
  madvise(base, bytes, MADV_DONTDUMP);
#endif
  return base;
}

}  // namespace dsjs
