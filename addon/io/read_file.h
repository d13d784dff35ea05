// Checkpoint files on their way back: each byte is read once, and goes where it belongs while the
// cache has it. Blocking. Errors: those of files.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dsjs::io {

// Bytes [file_offset, file_offset + bytes) and where they go.
struct Target {
  uint64_t file_offset;
  void* data;
  size_t bytes;
  // In place of `data`: is given bytes [offset, offset + bytes) of the target, in any order, by
  // several threads at once.
  std::function<void(uint64_t offset, const void* source, size_t bytes)> write = nullptr;
};

// Fills the targets. Throws IO_SHORT_FILE before any is filled when one ends behind the file; after
// another failure some are.
void read_file(const std::string& path, const std::vector<Target>& targets);

// The same, and reads what no target asks for as well, all past the page cache where the file
// system can: the checksum of the file.
uint32_t read_whole_file(const std::string& path, const std::vector<Target>& targets = {});

}  // namespace dsjs::io
