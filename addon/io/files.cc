#include "io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "io/crc32c.h"
#include "io/fault.h"
#include "io/system_error.h"

namespace dsjs::io {
namespace {

// Every write but the last has this size and starts at a multiple of it.
constexpr size_t kChunk = size_t{4} << 20;
constexpr size_t kPage = 4096;

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

// Gathers bytes into chunks, checks them and writes them in order. A chunk that lies whole in a
// piece is written from there.
class ChunkWriter {
 public:
  ChunkWriter(const File& file, const std::string& path, uint64_t total)
      : file_(file), path_(path), total_(total) {}

  void append(const uint8_t* data, size_t bytes) {
    while (bytes > 0) {
      if (filled_ == 0 && bytes >= kChunk) {
        write_out(data, kChunk);
        data += kChunk;
        bytes -= kChunk;
        continue;
      }
      const size_t n = std::min(bytes, kChunk - filled_);
      std::memcpy(space() + filled_, data, n);
      advance(n);
      data += n;
      bytes -= n;
    }
  }

  // fill(offset, target, bytes) gives the next bytes.
  template <class Fill>
  void append_filled(uint64_t bytes, Fill&& fill) {
    for (uint64_t done = 0; done < bytes;) {
      const auto n = static_cast<size_t>(std::min<uint64_t>(bytes - done, kChunk - filled_));
      fill(done, space() + filled_, n);
      advance(n);
      done += n;
    }
  }

  Written finish() {
    if (filled_ > 0) write_out(chunk_.get(), filled_);
    return {written_, crc_};
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };

  uint8_t* space() {
    if (!chunk_) {
      chunk_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPage, kChunk)));
      if (!chunk_) throw EngineError("OUT_OF_MEMORY", "no memory for a 4 MiB file buffer", "write");
    }
    return chunk_.get();
  }

  void advance(size_t bytes) {
    filled_ += bytes;
    if (filled_ < kChunk) return;
    write_out(chunk_.get(), kChunk);
    filled_ = 0;
  }

  void write_out(const uint8_t* data, size_t bytes) {
    fault_point();  // before each chunk
    crc_ = crc32c(data, bytes, crc_);
    while (bytes > 0) {
      const ssize_t n = write(file_.descriptor(), data, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        throw_system_error(
            "write", path_, errno,
            " (" + std::to_string(written_) + " of " + std::to_string(total_) + " bytes written)");
      data += n;
      bytes -= static_cast<size_t>(n);
      written_ += static_cast<uint64_t>(n);
    }
  }

  const File& file_;
  const std::string& path_;
  const uint64_t total_;
  std::unique_ptr<uint8_t, Free> chunk_;
  size_t filled_ = 0;
  uint64_t written_ = 0;
  uint32_t crc_ = 0;
};

void check_pieces(const std::string& path, std::vector<Piece>& pieces) {
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    // Empty pieces first: they lie before the one that starts where they do.
    return std::tie(a.file_offset, a.bytes) < std::tie(b.file_offset, b.bytes);
  });
  for (size_t i = 1; i < pieces.size(); ++i)
    if (pieces[i - 1].file_offset + pieces[i - 1].bytes > pieces[i].file_offset)
      throw EngineError("INVALID_ARGUMENT",
                        "cannot write " + path + ": the piece at " +
                            std::to_string(pieces[i].file_offset) + " overlaps the " +
                            std::to_string(pieces[i - 1].bytes) + " bytes at " +
                            std::to_string(pieces[i - 1].file_offset),
                        "write");
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Written write_file(const std::string& path, std::vector<Piece> pieces) {
  check_pieces(path, pieces);
  const uint64_t total = pieces.empty() ? 0 : pieces.back().file_offset + pieces.back().bytes;
  Temporary temporary(path);
  Written written;
  fault_point();  // before the temporary file exists
  {
    const File file(path, temporary.name(), O_WRONLY | O_CREAT | O_TRUNC, "create");
    temporary.created();
    fault_point();  // the temporary file is empty
    ChunkWriter writer(file, path, total);
    uint64_t position = 0;
    for (const Piece& piece : pieces) {
      writer.append_filled(piece.file_offset - position,
                           [](uint64_t, uint8_t* target, size_t n) { std::memset(target, 0, n); });
      if (piece.read)
        writer.append_filled(piece.bytes, piece.read);
      else
        writer.append(static_cast<const uint8_t*>(piece.data), piece.bytes);
      position = piece.file_offset + piece.bytes;
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
  const File file(path, O_RDONLY, "read");
  const std::unique_ptr<uint8_t[]> chunk(new uint8_t[kChunk]);
  uint32_t crc = 0;
  for (uint64_t offset = 0;; offset += kChunk) {
    const size_t n = file.read_at(chunk.get(), kChunk, offset);
    crc = crc32c(chunk.get(), n, crc);
    if (n < kChunk) return crc;
  }
}

void fsync_directory(const std::string& path) { File(path, O_RDONLY | O_DIRECTORY, "sync").sync(); }

}  // namespace dsjs::io
