// Checkpoint files: written whole or not at all, with a checksum computed on the way. Blocking; the
// binding runs them on an io thread. Errors: EngineError IO_ERROR naming path, bytes and the
// system's reason (IO_NO_SPACE and IO_PERMISSION where that is the reason, IO_SHORT_FILE for a
// truncated file).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/checksums.h"

namespace dsjs::io {

struct Piece {
  uint64_t file_offset;
  const void* data;
  size_t bytes;
  // In place of `data`: fills target with bytes [offset, offset + bytes) of the piece.
  std::function<void(uint64_t offset, void* target, size_t bytes)> read = nullptr;
  // Pieces are read group by group, ascending.
  size_t group = 0;
};

struct Written {
  uint64_t bytes;
  uint32_t crc32c;
};

// Writes the pieces (any order, not overlapping; holes read as zeros) to a temporary name in the
// folder of `path`, fsyncs, renames to `path`, fsyncs the folder. On failure nothing appears under
// `path` (an older file stays as it was) and the temporary file is removed.
//
// The memory of a group's pieces may change when it has been taken, and when this returns or
// throws.
Written write_file(const std::string& path, std::vector<Piece> pieces, Checksums& checksums);
Written write_file(const std::string& path, std::vector<Piece> pieces);

// Makes renames and removals in the folder durable.
void fsync_directory(const std::string& path);

}  // namespace dsjs::io
