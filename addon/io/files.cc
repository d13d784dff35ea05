#include "io/files.h"

#include <fcntl.h>
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
#include "io/file.h"
#include "io/system_error.h"

namespace dsjs::io {
namespace {

constexpr size_t kChunk = size_t{4} << 20;
// From here on a piece that starts within a page is worth cutting at the next one.
constexpr size_t kWorthCutting = size_t{64} << 10;

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

// Writes pieces where they belong, in any order, and puts their checksums together in the file's.
class PieceWriter {
 public:
  PieceWriter(const File& file, const std::string& name, const std::string& path, uint64_t total,
              Checksums& checksums)
      : file_(file), direct_(name, O_WRONLY), path_(path), total_(total), checksums_(checksums) {}

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

void fsync_directory(const std::string& path) { File(path, O_RDONLY | O_DIRECTORY, "sync").sync(); }

}  // namespace dsjs::io
