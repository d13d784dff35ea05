// What a transfer moves equals what plain reads and writes move, for both back ends and every
// option; what fails names the file, the bytes and the reason.
#include "aio/transfer.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/testing.h"

using namespace dsjs;
using aio::Backend;
using aio::kAlignment;
namespace fs = std::filesystem;

namespace {

constexpr size_t kBlock = 2 * kAlignment;
constexpr size_t kBytes = 37 * kAlignment;

struct Memory {
  explicit Memory(size_t count)
      : bytes(count), data(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, count))) {
    std::fill_n(data, count, uint8_t{0});
  }
  ~Memory() { std::free(data); }
  void number(uint8_t seed) {
    for (size_t i = 0; i < bytes; ++i)
      data[i] = static_cast<uint8_t>(((i + seed) * 2654435761u) >> 11);
  }
  bool operator==(const Memory& other) const { return std::equal(data, data + bytes, other.data); }
  const size_t bytes;
  uint8_t* const data;
};

// The file is there while this lives.
struct TestFile {
  TestFile(const fs::path& path, int flags) : path(path) {
    descriptor = open(path.c_str(), flags | O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    // tmpfs of older kernels has no direct I/O: the transfer is the same without.
    if (descriptor < 0) descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }
  ~TestFile() { close(descriptor); }
  const std::string path;
  int descriptor;
};

std::vector<Backend> backends() {
  if (aio::uring_available()) return {Backend::kUring, Backend::kThreads};
  std::printf("io_uring is not available here: its half of the test is left out\n");
  return {Backend::kThreads};
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const EngineError& error) {
    return error.code() + " " + error.what();
  }
  return "nothing";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void every_option_moves_the_same_bytes(const fs::path& folder, Backend backend) {
#if defined(O_DIRECT)
  const TestFile file(folder / "options.bin", O_DIRECT);
#else
  const TestFile file(folder / "options.bin", 0);
#endif
  Memory source(kBytes), target(kBytes);
  uint8_t seed = 0;
  for (size_t depth : {1, 3, 64})
    for (size_t threads : {1, 3})
      for (bool single : {false, true})
        for (bool overlap : {false, true}) {
          aio::Transfers transfers({kBlock, depth, threads, single, overlap, backend});
          CHECK(transfers.backend() == backend);
          source.number(++seed);
          // Stretches that change places: [0, 5) of memory goes behind [5, 37).
          const size_t cut = 5 * kAlignment;
          transfers.write(file.descriptor, file.path,
                          {{kBytes - cut, source.data, cut}, {0, source.data + cut, kBytes - cut}});
          std::fill_n(target.data, kBytes, uint8_t{0});
          CHECK(pread(file.descriptor, target.data, kBytes, 0) == static_cast<ssize_t>(kBytes));
          CHECK(std::equal(source.data + cut, source.data + kBytes, target.data));
          CHECK(std::equal(source.data, source.data + cut, target.data + kBytes - cut));
          std::fill_n(target.data, kBytes, uint8_t{0});
          transfers.read(file.descriptor, file.path,
                         {{kBytes - cut, target.data, cut}, {0, target.data + cut, kBytes - cut}});
          CHECK(source == target);
          transfers.read(file.descriptor, file.path, {});
          const aio::TransferStats stats = transfers.stats();
          CHECK(stats.bytes_written == kBytes && stats.bytes_read == kBytes);
          // Of 37 blocks of the disk, two a request: 3 and 16.
          CHECK(stats.requests == 2 * (3 + 16));
          CHECK(stats.most_under_way <= depth && (depth == 64 || stats.most_under_way == depth));
          CHECK(!single || stats.submissions == stats.requests);
          // All at once, or all of a queue's depth.
          if (!single && !overlap && threads == 1)
            CHECK(stats.submissions == 2 * ((19 + depth - 1) / depth));
        }
}

void a_short_file_is_an_error(const fs::path& folder, Backend backend) {
  const TestFile file(folder / "short.bin", 0);
  CHECK(ftruncate(file.descriptor, 3 * kAlignment + 100) == 0);
  Memory target(kBytes);
  aio::Transfers transfers({kBlock, 4, 1, false, true, backend});
  const std::string message = message_of([&] {
    transfers.read(file.descriptor, file.path, {{0, target.data, kBytes}});
  });
  CHECK_MESSAGE(message.rfind("IO_SHORT_FILE cannot read " + file.path, 0) == 0, message);
  // The lanes are good for the next transfer.
  transfers.read(file.descriptor, file.path, {{0, target.data, 3 * kAlignment}});
}

void a_full_disk_is_an_error(Backend backend) {
  const int full = open("/dev/full", O_RDWR | O_CLOEXEC);
  if (full < 0) return;
  Memory source(kBytes);
  aio::Transfers transfers({kBlock, 4, 2, false, true, backend});
  const std::string message = message_of([&] {
    transfers.write(full, "the swap file", {{0, source.data, kBytes}});
  });
  CHECK_MESSAGE(contains(message, "IO_NO_SPACE cannot write the swap file (8192 bytes at "),
                message);
  CHECK_MESSAGE(contains(message, "No space left on device"), message);
  close(full);
}

// The limit cuts a block in two: its first half is written, what is left fails.
void a_limit_inside_a_block_is_an_error(const fs::path& folder, Backend backend) {
  const TestFile file(folder / "limited.bin", 0);
  Memory source(kBytes);
  source.number(9);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limited{5 * kAlignment, before.rlim_max};
  CHECK(setrlimit(RLIMIT_FSIZE, &limited) == 0);
  aio::Transfers transfers({kBlock, 1, 1, false, true, backend});
  const std::string message = message_of([&] {
    transfers.write(file.descriptor, file.path, {{0, source.data, kBytes}});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK_MESSAGE(contains(message, "IO_ERROR cannot write " + file.path + " (4096 bytes at 20480)"),
                message);
  Memory target(5 * kAlignment);
  transfers.read(file.descriptor, file.path, {{0, target.data, target.bytes}});
  CHECK(std::equal(target.data, target.data + target.bytes, source.data));
}

void a_file_that_is_not_for_writing(const fs::path& folder, Backend backend) {
  const fs::path path = folder / "options.bin";
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  Memory source(kBytes);
  aio::Transfers transfers({kBlock, 4, 1, false, true, backend});
  const std::string message = message_of([&] {
    transfers.write(descriptor, path, {{0, source.data, kBytes}});
  });
  CHECK_MESSAGE(contains(message, "IO_ERROR cannot write " + path.string()), message);
  CHECK_MESSAGE(contains(message, "Bad file descriptor"), message);
  close(descriptor);
}

void options_are_checked() {
  const auto code = [](aio::Options options) { aio::Transfers transfers(options); };
  CHECK_THROWS_CODE(code({.block_size = 1000}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(code({.block_size = 0}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(code({.queue_depth = 0}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(code({.threads = 0}), "INVALID_ARGUMENT");
}

}  // namespace

int main() {
  std::string name = fs::temp_directory_path() / "dsjs-transfer-XXXXXX";
  if (!mkdtemp(name.data())) return 1;
  for (Backend backend : backends()) {
    every_option_moves_the_same_bytes(name, backend);
    a_short_file_is_an_error(name, backend);
    a_full_disk_is_an_error(backend);
    a_limit_inside_a_block_is_an_error(name, backend);
    a_file_that_is_not_for_writing(name, backend);
  }
  options_are_checked();
  fs::remove_all(name);
  return testing::summary();
}
