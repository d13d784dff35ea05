// Reading a file by targets against its bytes, past the page cache and through it.
#include "io/read_file.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "core/testing.h"
#include "io/crc32c.h"

using namespace dsjs;
namespace fs = std::filesystem;

namespace {

// Several cells, the last one short, and not whole pages.
constexpr size_t kBytes = (size_t{5} << 20) + 12'345;

std::vector<uint8_t> write(const std::string& path, size_t count) {
  std::vector<uint8_t> data(count);
  for (size_t i = 0; i < count; ++i) data[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(count));
  return data;
}

struct Stretch {
  size_t begin, bytes;
};

// In any order, empty, within a cell, over several, up to the end, and some bytes twice.
const std::vector<Stretch> kStretches = {
    {kBytes - 7, 7},       {0, 0},         {kBytes, 0}, {100, 3}, {(1 << 20) - 5, (3 << 20) + 11},
    {(2 << 20) + 1, 4096}, {5 << 20, 4096}};

// With `whole` the checksum is checked, too.
void test_targets(const std::string& path, const std::vector<uint8_t>& data, bool whole,
                  bool through_function) {
  std::vector<uint8_t> memory(kBytes + kStretches.size(), 0xEE);
  std::vector<uint8_t> want = memory;
  std::vector<io::Target> targets;
  std::mutex mutex;
  size_t place = 0;
  for (const auto [begin, bytes] : kStretches) {
    uint8_t* const target = memory.data() + place;
    if (through_function)
      targets.push_back({begin, nullptr, bytes,
                         [target, &mutex](uint64_t offset, const void* source, size_t count) {
                           std::lock_guard lock(mutex);
                           std::memcpy(target + offset, source, count);
                         }});
    else
      targets.push_back({begin, target, bytes});
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(begin), bytes,
                want.begin() + static_cast<ptrdiff_t>(place));
    place += bytes + 1;
  }
  if (whole)
    CHECK(io::read_whole_file(path, targets) == io::crc32c(data.data(), data.size()));
  else
    io::read_file(path, targets);
  CHECK(memory == want);
}

void test_folder(const fs::path& folder) {
  const std::string path = folder / "data.bin";
  const std::vector<uint8_t> data = write(path, kBytes);
  for (const bool whole : {false, true})
    for (const bool through_function : {false, true})
      test_targets(path, data, whole, through_function);

  // Sizes around a page and a cell.
  for (const size_t count : {size_t{0}, size_t{1}, size_t{4096}, size_t{1} << 20,
                             (size_t{1} << 20) + 1, size_t{3} << 20}) {
    const std::vector<uint8_t> other = write(folder / "size.bin", count);
    CHECK(io::read_whole_file(folder / "size.bin") == io::crc32c(other.data(), count));
  }

  // Refused before anything is filled.
  std::vector<uint8_t> part(20, 0xEE);
  const std::vector<io::Target> behind = {{0, part.data(), 10}, {kBytes - 9, part.data() + 10, 10}};
  CHECK_THROWS_CODE(io::read_file(path, behind), "IO_SHORT_FILE");
  CHECK_THROWS_CODE(io::read_whole_file(path, behind), "IO_SHORT_FILE");
  CHECK(part == std::vector<uint8_t>(20, 0xEE));
  CHECK_THROWS_CODE(io::read_file(folder / "none", {}), "IO_NOT_FOUND");
  // An error of one thread ends all.
  const io::Target failing = {0, nullptr, kBytes, [](uint64_t, const void*, size_t) {
                                throw EngineError("IO_ERROR", "refused");
                              }};
  CHECK_THROWS_CODE(io::read_whole_file(path, {failing}), "IO_ERROR");
}

}  // namespace

int main() {
  // A file system in memory has no direct I/O in older kernels.
  for (const fs::path& place : {fs::temp_directory_path(), fs::path("/dev/shm")}) {
    if (!fs::is_directory(place)) continue;
    std::string name = place / "dsjs-read-XXXXXX";
    if (!mkdtemp(name.data())) return 1;
    test_folder(name);
    fs::remove_all(name);
  }
  return testing::summary();
}
