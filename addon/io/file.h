// An open file, and the same past the page cache.
#pragma once
#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace dsjs::io {

// Direct I/O begins and ends at multiples of this in a file.
constexpr size_t kPage = 4096;

class File {
 public:
  // Errors speak of `path`; `name` is what it is called now. `verb`: "cannot VERB PATH".
  File(const std::string& path, const std::string& name, int flags, const char* verb);
  File(const std::string& path, int flags, const char* verb) : File(path, path, flags, verb) {}
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }
  uint64_t size() const;
  // Makes what was written durable.
  void sync() const;
  // Bytes really read: fewer only at the end of the file.
  size_t read_at(void* target, size_t bytes, uint64_t offset) const;
  // Bytes that will be read next, so that the system may ask for all of them at once.
  void announce(uint64_t offset, size_t bytes) const;

  // For messages.
  static std::string at(uint64_t bytes, uint64_t offset);

 private:
  const std::string path_;
  int descriptor_;
};

// The same file once more, past the page cache: whole pages cost no copy then, which would take
// cores from training beside a save. Nothing where the file system has no such way.
class DirectFile {
 public:
  // flags: O_RDONLY or O_WRONLY.
  DirectFile(const std::string& name, int flags);
  ~DirectFile() { drop(); }
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  int descriptor() const { return descriptor_; }
  bool there() const { return descriptor_ >= 0; }
  void drop();

  // Whether memory is aligned well enough.
  static bool takes(const void* data);
  // How many of the bytes can go this way.
  size_t whole_pages(const void* data, size_t bytes, uint64_t offset) const;

 private:
  int descriptor_ = -1;
};

}  // namespace dsjs::io
