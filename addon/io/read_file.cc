#include "io/read_file.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <thread>

#include "core/error.h"
#include "io/crc32c.h"
#include "io/file.h"

namespace dsjs::io {
namespace {

// A file is read by cells, which fit in a core's cache: checksum and copies then read that.
constexpr size_t kCell = size_t{1} << 20;
// Enough for a disk to be busy while some of them copy.
constexpr size_t kReaders = 4;

struct Cell {
  // Of the file. What no target asks for is left out at both ends, unless the checksum is wanted.
  uint64_t begin = 0, end = 0;
  std::vector<const Target*> targets;
  uint32_t crc = 0;
};

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Space = std::unique_ptr<uint8_t, Free>;

Space make_space() {
  Space space(static_cast<uint8_t*>(std::aligned_alloc(kPage, kCell)));
  if (!space) throw EngineError("OUT_OF_MEMORY", "no memory for a 1 MiB file buffer", "read");
  return space;
}

std::vector<Cell> cells_of(const std::string& path, uint64_t total,
                           const std::vector<Target>& targets, bool whole) {
  std::vector<Cell> cells((total + kCell - 1) / kCell);
  for (size_t index = 0; whole && index < cells.size(); ++index) {
    cells[index].begin = index * kCell;
    cells[index].end = std::min<uint64_t>(total, (index + 1) * kCell);
  }
  for (const Target& target : targets) {
    const uint64_t end = target.file_offset + target.bytes;
    if (target.file_offset > total || end > total)
      throw EngineError("IO_SHORT_FILE",
                        "cannot read " + path + File::at(target.bytes, target.file_offset) +
                            ": the file has only " + std::to_string(total) + " bytes",
                        "read");
    for (uint64_t at = target.file_offset; at < end; at = (at / kCell + 1) * kCell) {
      Cell& cell = cells[at / kCell];
      const uint64_t last = std::min(end, (at / kCell + 1) * kCell);
      const bool empty = cell.begin == cell.end;
      cell.begin = empty ? at : std::min(cell.begin, at);
      cell.end = std::max(cell.end, last);
      cell.targets.push_back(&target);
    }
  }
  return cells;
}

// One thread's way to the file.
class Reader {
 public:
  Reader(const std::string& path, bool whole)
      : path_(path), file_(path, O_RDONLY, "read"), direct_(whole ? path : "", O_RDONLY) {}

  void read(Cell& cell, bool whole) {
    const size_t bytes = cell.end - cell.begin;
    if (bytes == 0) return;
    if (!read_directly(cell.begin, bytes)) {
      file_.announce(cell.begin, bytes);
      if (file_.read_at(space_.get(), bytes, cell.begin) != bytes)
        throw EngineError(
            "IO_SHORT_FILE",
            "cannot read " + path_ + File::at(bytes, cell.begin) + ": the file has become shorter",
            "read");
    }
    if (whole) cell.crc = crc32c(space_.get(), bytes);
    for (const Target* target : cell.targets) {
      const uint64_t begin = std::max(cell.begin, target->file_offset);
      const uint64_t end = std::min(cell.end, target->file_offset + target->bytes);
      const uint8_t* source = space_.get() + (begin - cell.begin);
      const uint64_t offset = begin - target->file_offset;
      if (target->write)
        target->write(offset, source, end - begin);
      else
        std::memcpy(static_cast<uint8_t*>(target->data) + offset, source, end - begin);
    }
  }

 private:
  // The last page of a file is asked for whole, too. Where it does not come, the ordinary way says
  // why.
  bool read_directly(uint64_t offset, size_t bytes) {
    if (!direct_.there() || offset % kPage != 0) return false;
    const size_t pages = (bytes + kPage - 1) / kPage * kPage;
    const ssize_t n = pread(direct_.descriptor(), space_.get(), pages, static_cast<off_t>(offset));
    if (n < 0) direct_.drop();
    return n >= static_cast<ssize_t>(bytes);
  }

  const std::string& path_;
  const File file_;
  DirectFile direct_;
  const Space space_ = make_space();
};

uint32_t read(const std::string& path, const std::vector<Target>& targets, bool whole) {
  std::vector<Cell> cells = cells_of(path, File(path, O_RDONLY, "read").size(), targets, whole);
  std::atomic<size_t> next{0};
  const size_t readers = std::min(cells.size(), kReaders);
  std::vector<std::exception_ptr> errors(readers);
  const auto read_cells = [&](size_t reader) {
    try {
      Reader file(path, whole);
      for (size_t index = next++; index < cells.size(); index = next++)
        file.read(cells[index], whole);
    } catch (...) {
      next = cells.size();
      errors[reader] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (size_t reader = 1; reader < readers; ++reader) threads.emplace_back(read_cells, reader);
  if (readers > 0) read_cells(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  uint32_t crc = 0;
  for (const Cell& cell : cells) crc = crc32c_combine(crc, cell.crc, cell.end - cell.begin);
  return crc;
}

}  // namespace

void read_file(const std::string& path, const std::vector<Target>& targets) {
  read(path, targets, false);
}

uint32_t read_whole_file(const std::string& path, const std::vector<Target>& targets) {
  return read(path, targets, true);
}

}  // namespace dsjs::io
