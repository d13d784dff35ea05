// Checksums against published values and against each other; files against their pieces.
#include "io/files.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/testing.h"
#include "io/crc32c.h"

using namespace dsjs;
namespace fs = std::filesystem;

namespace {

std::vector<uint8_t> bytes(size_t count) {
  std::vector<uint8_t> data(count);
  for (size_t i = 0; i < count; ++i) data[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
  return data;
}

// Bit by bit, from the definition.
uint32_t slow_crc(const uint8_t* data, size_t count) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < count; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? (crc >> 1) ^ 0x82F63B78 : crc >> 1;
  }
  return ~crc;
}

void test_crc() {
  // RFC 3720, appendix B.4.
  CHECK(io::crc32c("123456789", 9) == 0xE3069283);
  const std::vector<uint8_t> zeros(32), ones(32, 0xff);
  CHECK(io::crc32c(zeros.data(), 32) == 0x8A9136AA);
  CHECK(io::crc32c(ones.data(), 32) == 0x62A8AB43);
  CHECK(io::crc32c(nullptr, 0) == 0);
  CHECK(io::crc32c_of_zeros(32) == 0x8A9136AA && io::crc32c_of_zeros(0) == 0);
  CHECK(io::crc32c_hex(0x0A9136AA) == "0a9136aa");

  const std::vector<uint8_t> data = bytes(260'000);
  // Below, at and above the three lanes of the fast path, from odd addresses.
  for (size_t count : {size_t{1}, size_t{7}, size_t{8}, size_t{12287}, size_t{12288}, size_t{39000},
                       size_t{98303}, size_t{98304}, size_t{250'000}}) {
    const uint32_t want = slow_crc(data.data() + 3, count);
    CHECK(io::crc32c(data.data() + 3, count) == want);
    CHECK(io::crc32c_table(data.data() + 3, count) == want);
    for (size_t split : {size_t{0}, size_t{1}, count / 2, count}) {
      const uint32_t head = io::crc32c(data.data() + 3, split);
      const uint32_t tail = io::crc32c(data.data() + 3 + split, count - split);
      CHECK(io::crc32c(data.data() + 3 + split, count - split, head) == want);
      CHECK(io::crc32c_combine(head, tail, count - split) == want);
    }
  }
}

std::vector<uint8_t> content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void test_files(const fs::path& folder) {
  const std::string path = folder / "data.bin";
  const std::vector<uint8_t> data = bytes((9 << 20) + 5);
  // Out of order, with a hole, one empty, sizes around the 4 MiB chunk.
  const size_t cuts[] = {0, 3, 100, (4 << 20) + 1, (9 << 20), data.size()};
  std::vector<io::Piece> pieces = {{4096, nullptr, 0}};
  for (int i = 4; i >= 0; --i)
    pieces.push_back({cuts[i] + (i >= 3 ? 1000 : 0), data.data() + cuts[i], cuts[i + 1] - cuts[i]});
  pieces[0].file_offset = data.size() + 1000;
  std::vector<uint8_t> want(data.size() + 1000);
  std::copy(data.begin(), data.begin() + cuts[3], want.begin());
  std::copy(data.begin() + cuts[3], data.end(), want.begin() + cuts[3] + 1000);

  const io::Written written = io::write_file(path, pieces);
  CHECK(written.bytes == want.size());
  CHECK(written.crc32c == io::crc32c(want.data(), want.size()));
  CHECK(content(path) == want);
  CHECK(entries(folder) == 1);

  // Empty tensors share the offset of the one behind them, in any order.
  io::write_file(folder / "empty.bin",
                 {{0, data.data(), 10}, {0, nullptr, 0}, {10, data.data(), 1}});
  CHECK(fs::file_size(folder / "empty.bin") == 11);
  fs::remove(folder / "empty.bin");

  // Memory that direct I/O takes as it is: from a page's start, and from its middle to the middle
  // of another.
  std::vector<uint8_t> room(data.size() + 8192);
  uint8_t* const page = room.data() + (8192 - reinterpret_cast<uintptr_t>(room.data()) % 4096);
  for (size_t begin : {size_t{0}, size_t{512}, size_t{100}}) {
    std::copy(data.begin(), data.end() - 4096, page + begin);
    const size_t count = data.size() - 4096;
    const io::Written placed = io::write_file(folder / "pages.bin", {{begin, page + begin, count}});
    std::vector<uint8_t> expected(begin);
    expected.insert(expected.end(), data.begin(), data.end() - 4096);
    CHECK(content(folder / "pages.bin") == expected);
    CHECK(placed.crc32c == io::crc32c(expected.data(), expected.size()));
  }
  fs::remove(folder / "pages.bin");

  // Pieces that are read as they are written, one longer than a chunk.
  const auto from = [&](size_t start) {
    return [&data, start](uint64_t offset, void* target, size_t count) {
      std::copy_n(data.begin() + static_cast<ptrdiff_t>(start + offset), count,
                  static_cast<uint8_t*>(target));
    };
  };
  const size_t first = 5 << 20;
  io::write_file(folder / "read.bin",
                 {{0, nullptr, first, from(0)},
                  {first, data.data() + first, 7},
                  {first + 7, nullptr, data.size() - first - 7, from(first + 7)}});
  CHECK(content(folder / "read.bin") == data);
  fs::remove(folder / "read.bin");

  // By groups: what was taken may change at once, whatever the groups' places in the file, and
  // whoever reads it: this thread, one beside it, or both.
  for (const bool beside : {false, true})
    for (const bool hurried : {false, true}) {
      std::vector<uint8_t> changing = data;
      std::vector<size_t> taken;
      io::Checksums checksums(
          [&](size_t group) {
            taken.push_back(group);
            if (group == 0) {
              std::fill_n(changing.begin() + 10, first, 0);
              std::fill(changing.begin() + static_cast<ptrdiff_t>(510 + first), changing.end(), 0);
            }
          },
          beside);
      if (hurried) checksums.hurry();
      const io::Written grouped = io::write_file(
          folder / "groups.bin",
          {{0, changing.data(), 10, nullptr, 2},
           {10, changing.data() + 10, first, nullptr, 0},
           {10 + first, changing.data() + 10 + first, 500, nullptr, 1},
           {510 + first, changing.data() + 510 + first, data.size() - first - 510, nullptr, 0}},
          checksums);
      CHECK((taken == std::vector<size_t>{0, 1, 2}));
      CHECK(content(folder / "groups.bin") == data);
      CHECK(grouped.crc32c == io::crc32c(data.data(), data.size()));
      fs::remove(folder / "groups.bin");
    }

  // A failure leaves the older file as it was.
  CHECK_THROWS_CODE(io::write_file(path, {{0, data.data(), 10}, {9, data.data(), 10}}),
                    "INVALID_ARGUMENT");
  CHECK(content(path) == want);
  CHECK_THROWS_CODE(io::write_file(folder / "none" / "x", {}), "IO_NOT_FOUND");
  // A folder under the final name: the rename fails last, and the temporary file goes.
  fs::create_directories(folder / "taken" / "full");
  CHECK_THROWS_CODE(io::write_file(folder / "taken", {{0, data.data(), 10}}), "IO_ERROR");
  CHECK(entries(folder) == 2);

  io::write_file(path, {});
  CHECK(fs::file_size(path) == 0);
  io::fsync_directory(folder);
  CHECK_THROWS_CODE(io::fsync_directory(path), "IO_NOT_FOUND");
}

}  // namespace

int main() {
  test_crc();
  std::string name = fs::temp_directory_path() / "dsjs-files-XXXXXX";
  if (!mkdtemp(name.data())) return 1;
  test_files(name);
  fs::remove_all(name);
  return testing::summary();
}
