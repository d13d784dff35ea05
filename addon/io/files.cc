#include "io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "io/crc32c.h"
#include "io/fault.h"
#include "io/system_error.h"

namespace dsjs::io {
namespace {

constexpr size_t kChunk = size_t{4} << 20;
constexpr size_t kPage = 4096;
// Threads that read a file for its checksum: enough for a disk to be busy.
constexpr size_t kReaders = 4;
// What direct I/O asks of addresses in memory: the disk's blocks, of at most a page.
constexpr size_t kBlock = 512;
// From here on a piece that starts within a page is worth cutting at the next one.
constexpr size_t kWorthCutting = size_t{64} << 10;

class File {
 public:
  // Errors speak of `path`; `name` is what it is called now.
  File(const std::string& path, const std::string& name, int flags, const char* verb)
      : path_(path) {
    descriptor_ = open(name.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw_system_error(verb, path_, errno);
  }
  File(const std::string& path, int flags, const char* verb) : File(path, path, flags, verb) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }

  uint64_t size() const {
    struct stat status;
    if (fstat(descriptor_, &status) != 0) throw_system_error("inspect", path_, errno);
    return static_cast<uint64_t>(status.st_size);
  }

  void sync() const {
#if defined(F_FULLFSYNC)
    if (fcntl(descriptor_, F_FULLFSYNC) == 0) return;
#endif
    // Some file systems cannot sync a folder and say so with EINVAL; there is nothing to add then.
    if (fsync(descriptor_) != 0 && errno != EINVAL) throw_system_error("sync", path_, errno);
  }

  // Bytes really read: fewer only at the end of the file.
  size_t read_at(void* target, size_t bytes, uint64_t offset) const {
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

  // Bytes that will be read next, so that the system may ask for all of them at once.
  void announce(uint64_t offset, size_t bytes) const {
#if defined(POSIX_FADV_WILLNEED)
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  POSIX_FADV_WILLNEED);  // advice
#else
    static_cast<void>(offset);
    static_cast<void>(bytes);
#endif
  }

  static std::string at(uint64_t bytes, uint64_t offset) {
    return " (" + std::to_string(bytes) + " bytes at " + std::to_string(offset) + ")";
  }

 private:
  std::string path_;
  int descriptor_;
};

// A temporary file that disappears unless it is renamed to its final name.
class Temporary {
 public:
  explicit Temporary(const std::string& path) : path_(path), name_(temporary_name(path)) {}
  ~Temporary() {
    if (created_) unlink(name_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::string& name() const { return name_; }
  void created() { created_ = true; }
  void rename_to_final() {
    if (rename(name_.c_str(), path_.c_str()) != 0) throw_system_error("rename to", path_, errno);
    created_ = false;
  }

 private:
  // Unique among threads and processes; a left-over of a killed process of the same id is replaced.
  static std::string temporary_name(const std::string& path) {
    static std::atomic<uint64_t> counter{0};
    const size_t slash = path.rfind('/');
    const size_t start = slash == std::string::npos ? 0 : slash + 1;
    return path.substr(0, start) + "." + path.substr(start) + ".tmp-" + std::to_string(getpid()) +
           "-" + std::to_string(++counter);
  }

  std::string path_;
  std::string name_;
  bool created_ = false;
};

// The same file once more, past the page cache: whole pages cost no copy then, which would take
// cores from training beside a save. Nothing where the file system has no such way.
class DirectFile {
 public:
  explicit DirectFile(const std::string& name) {
#if defined(O_DIRECT)
    descriptor_ = open(name.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
#else
    static_cast<void>(name);
#endif
  }
  ~DirectFile() { drop(); }
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  int descriptor() const { return descriptor_; }
  bool there() const { return descriptor_ >= 0; }
  void drop() {
    if (there()) close(descriptor_);
    descriptor_ = -1;
  }

  static bool takes(const void* data) { return reinterpret_cast<uintptr_t>(data) % kBlock == 0; }

  // How many of the bytes can go this way.
  size_t whole_pages(const void* data, size_t bytes, uint64_t offset) const {
    return there() && takes(data) && offset % kPage == 0 ? bytes - bytes % kPage : 0;
  }

 private:
  int descriptor_ = -1;
};

// Writes pieces where they belong, in any order, and puts their checksums together in the file's.
class PieceWriter {
 public:
  PieceWriter(const File& file, const std::string& name, const std::string& path, uint64_t total,
              Checksums& checksums)
      : file_(file), direct_(name), path_(path), total_(total), checksums_(checksums) {}

  void write(const Piece& piece) {
    for (size_t done = 0; done < piece.bytes;) {
      const uint64_t offset = piece.file_offset + done;
      const size_t left = piece.bytes - done;
      const bool cut = offset % kPage != 0 && left >= kWorthCutting;
      const size_t count = std::min(cut ? kPage - offset % kPage : kChunk, left);
      const uint8_t* data = static_cast<const uint8_t*>(piece.data) + done;
      if (piece.read) {
        piece.read(done, space(), count);
        data = chunk_.get();
      } else if (direct_.there() && !DirectFile::takes(data) && count >= kWorthCutting) {
        std::memcpy(space(), data, count);
        data = chunk_.get();
      }
      fault_point();  // before each chunk
      write_out(data, count, offset);
      if (data == chunk_.get())
        checksums_.add_now(data, count);
      else
        checksums_.add(data, count);
      parts_.push_back({offset, count});
      done += count;
    }
  }

  // What no piece covers reads as zeros.
  Written finish() {
    if (ftruncate(file_.descriptor(), static_cast<off_t>(total_)) != 0)
      throw_system_error("write", path_, errno);
    const std::vector<uint32_t> checksums = checksums_.finish();
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].crc = checksums[i];
    std::sort(parts_.begin(), parts_.end(),
              [](const Part& a, const Part& b) { return a.offset < b.offset; });
    parts_.push_back({total_, 0});
    Written written{0, 0};
    for (const Part& part : parts_) {
      const uint64_t hole = part.offset - written.bytes;
      written.crc32c = crc32c_combine(written.crc32c, crc32c_of_zeros(hole), hole);
      written.crc32c = crc32c_combine(written.crc32c, part.crc, part.bytes);
      written.bytes = part.offset + part.bytes;
    }
    return written;
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  struct Part {
    uint64_t offset, bytes;
    uint32_t crc = 0;
  };

  uint8_t* space() {
    if (!chunk_) {
      chunk_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPage, kChunk)));
      if (!chunk_) throw EngineError("OUT_OF_MEMORY", "no memory for a 4 MiB file buffer", "write");
    }
    return chunk_.get();
  }

  void write_out(const uint8_t* data, size_t bytes, uint64_t offset) {
    while (bytes > 0) {
      const size_t pages = direct_.whole_pages(data, bytes, offset);
      const int descriptor = pages > 0 ? direct_.descriptor() : file_.descriptor();
      const ssize_t n =
          pwrite(descriptor, data, pages > 0 ? pages : bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EINVAL && pages > 0) {
        direct_.drop();  // opened, but not for such blocks
        continue;
      }
      if (n < 0)
        throw_system_error(
            "write", path_, errno,
            " (" + std::to_string(done_) + " of " + std::to_string(total_) + " bytes written)");
      data += n;
      bytes -= static_cast<size_t>(n);
      offset += static_cast<uint64_t>(n);
      done_ += static_cast<uint64_t>(n);
    }
  }

  const File& file_;
  DirectFile direct_;
  const std::string& path_;
  const uint64_t total_;
  Checksums& checksums_;
  std::unique_ptr<uint8_t, Free> chunk_;
  std::vector<Part> parts_;
  uint64_t done_ = 0;
};

// Returns the length of the file.
uint64_t check_pieces(const std::string& path, const std::vector<Piece>& pieces) {
  std::vector<const Piece*> sorted;
  for (const Piece& piece : pieces) sorted.push_back(&piece);
  std::sort(sorted.begin(), sorted.end(), [](const Piece* a, const Piece* b) {
    // Empty pieces first: they lie before the one that starts where they do.
    return std::tie(a->file_offset, a->bytes) < std::tie(b->file_offset, b->bytes);
  });
  uint64_t end = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const Piece& piece = *sorted[i];
    if (piece.file_offset < end)
      throw EngineError("INVALID_ARGUMENT",
                        "cannot write " + path + ": the piece at " +
                            std::to_string(piece.file_offset) + " overlaps the " +
                            std::to_string(sorted[i - 1]->bytes) + " bytes at " +
                            std::to_string(sorted[i - 1]->file_offset),
                        "write");
    end = piece.file_offset + piece.bytes;
  }
  return end;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Written write_file(const std::string& path, std::vector<Piece> pieces) {
  Checksums checksums;
  return write_file(path, std::move(pieces), checksums);
}

Written write_file(const std::string& path, std::vector<Piece> pieces, Checksums& checksums) {
  // Whatever happens, nobody reads the pieces afterwards.
  const struct Stop {
    Checksums& checksums;
    ~Stop() { checksums.stop(); }
  } stop{checksums};
  const uint64_t total = check_pieces(path, pieces);
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::tie(a.group, a.file_offset) < std::tie(b.group, b.file_offset);
  });
  Temporary temporary(path);
  Written written;
  fault_point();  // before the temporary file exists
  {
    const File file(path, temporary.name(), O_WRONLY | O_CREAT | O_TRUNC, "create");
    temporary.created();
    fault_point();  // the temporary file is empty
    PieceWriter writer(file, temporary.name(), path, total, checksums);
    for (size_t i = 0; i < pieces.size(); ++i) {
      writer.write(pieces[i]);
      const bool is_last = i + 1 == pieces.size() || pieces[i + 1].group != pieces[i].group;
      if (is_last) checksums.end_group(pieces[i].group);
    }
    written = writer.finish();
    fault_point();  // all written, nothing durable
    file.sync();
    fault_point();  // the temporary file is durable
  }
  temporary.rename_to_final();
  fault_point();  // the name is there, not yet durable
  fsync_directory(folder_of(path));
  fault_point();  // all done
  return written;
}

void read_into(const std::string& path, uint64_t file_offset, void* target, size_t bytes) {
  const File file(path, O_RDONLY, "read");
  const size_t done = file.read_at(target, bytes, file_offset);
  if (done != bytes)
    throw EngineError("IO_SHORT_FILE",
                      "cannot read " + path + File::at(bytes, file_offset) +
                          ": the file has only " + std::to_string(file.size()) + " bytes",
                      "read");
}

uint32_t crc32c_file(const std::string& path) {
  const uint64_t bytes = File(path, O_RDONLY, "read").size();
  const size_t chunks = (bytes + kChunk - 1) / kChunk;
  std::vector<Written> parts(chunks);
  std::atomic<size_t> next{0};
  // One reader asks the disk for too little at a time, and would alone copy and add up.
  const size_t readers = std::min(chunks, kReaders);
  std::vector<std::exception_ptr> errors(readers);
  const auto read = [&](size_t reader) {
    try {
      const File file(path, O_RDONLY, "read");
      const std::unique_ptr<uint8_t[]> chunk(new uint8_t[kChunk]);
      for (size_t index = next++; index < chunks; index = next++) {
        file.announce(index * kChunk, kChunk);
        const size_t n = file.read_at(chunk.get(), kChunk, index * kChunk);
        parts[index] = {n, crc32c(chunk.get(), n)};
      }
    } catch (...) {
      errors[reader] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (size_t reader = 1; reader < readers; ++reader) threads.emplace_back(read, reader);
  if (readers > 0) read(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  uint32_t crc = 0;
  for (const Written& part : parts) crc = crc32c_combine(crc, part.crc32c, part.bytes);
  return crc;
}

void fsync_directory(const std::string& path) { File(path, O_RDONLY | O_DIRECTORY, "sync").sync(); }

}  // namespace dsjs::io
