// A swap file reads as what was written, has no name, takes its space at the start, and says which
// file failed and why.
#include "aio/swap_file.h"

#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "core/testing.h"

using namespace dsjs;
using aio::Backend;
using aio::kAlignment;
using aio::SwapFile;
namespace fs = std::filesystem;

namespace {

std::vector<uint8_t> bytes(size_t count, uint32_t seed) {
  std::vector<uint8_t> data(count);
  for (size_t i = 0; i < count; ++i)
    data[i] = static_cast<uint8_t>(((i + seed) * 2654435761u) >> 13);
  return data;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const EngineError& error) {
    return error.code() + " " + error.what();
  }
  return "nothing";
}

void reads_what_was_written(const fs::path& folder, Backend backend) {
  constexpr size_t kSize = size_t{9} << 20;
  SwapFile file(folder / "swap", kSize, {.block_size = 64 * 1024, .backend = backend});
  CHECK(fs::is_empty(folder));
  CHECK(file.bytes() == kSize && file.backend() == backend);

  std::vector<uint8_t> got(kSize, 1);
  file.copy_out(0, got.data(), kSize);
  CHECK(got == std::vector<uint8_t>(kSize));

  // Edges inside blocks, across the 4 MiB of the copying buffer, and neighbours that stay.
  std::vector<uint8_t> want(kSize);
  const size_t cuts[][2] = {
      {0, 1}, {4095, 2}, {4096, 4096}, {5000, (4 << 20) + 12345}, {kSize - 3, 3}};
  uint32_t seed = 0;
  for (const auto& [offset, count] : cuts) {
    const auto part = bytes(count, ++seed);
    std::copy(part.begin(), part.end(), want.begin() + static_cast<ptrdiff_t>(offset));
    file.copy_in(offset, part.data(), count);
  }
  file.copy_out(0, got.data(), kSize);
  CHECK(got == want);
  for (const auto& [offset, count] : cuts) {
    std::vector<uint8_t> part(count);
    file.copy_out(offset, part.data(), count);
    CHECK(std::equal(part.begin(), part.end(), want.begin() + static_cast<ptrdiff_t>(offset)));
  }

  // Several threads at once, whose bytes share blocks.
  constexpr size_t kThreads = 4, kPart = 1000, kParts = 400;
  const auto changed = bytes(kParts * kPart, ++seed);
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      for (size_t part = thread; part < kParts; part += kThreads)
        file.copy_in(part * kPart, changed.data() + part * kPart, kPart);
    });
  for (std::thread& thread : threads) thread.join();
  std::copy(changed.begin(), changed.end(), want.begin());
  file.copy_out(0, got.data(), kSize);
  CHECK(got == want);

  auto* aligned = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, kSize));
  file.read({{4 * kAlignment, aligned, kSize - 4 * kAlignment},
             {0, aligned + kSize - 4 * kAlignment, 4 * kAlignment}});
  CHECK(std::equal(aligned, aligned + kSize - 4 * kAlignment, want.begin() + 4 * kAlignment));
  file.write({{0, aligned, kSize}});
  file.copy_out(kSize - 4 * kAlignment, got.data(), 4 * kAlignment);
  CHECK(std::equal(got.begin(), got.begin() + 4 * kAlignment, want.begin()));

  CHECK_THROWS_CODE(file.read({{1, aligned, kAlignment}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(file.read({{0, aligned + 1, kAlignment}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(file.write({{0, aligned, 100}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(file.write({{kSize, aligned, kAlignment}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(file.copy_out(kSize - 1, got.data(), 2), "INVALID_ARGUMENT");
  std::free(aligned);
}

void what_cannot_be_made(const fs::path& folder) {
  CHECK_THROWS_CODE(SwapFile(folder / "none" / "swap", kAlignment, {}), "IO_NOT_FOUND");
  CHECK_THROWS_CODE(SwapFile(folder / "swap", 100, {}), "INVALID_ARGUMENT");
  const uint64_t huge = uint64_t{1} << 50;
  const std::string message = message_of([&] { SwapFile(folder / "swap", huge, {}); });
  CHECK_MESSAGE(message.rfind("IO_", 0) == 0 && message.find("reserve") != std::string::npos &&
                    message.find((folder / "swap").string()) != std::string::npos,
                message);
  CHECK(fs::is_empty(folder));
}

// Needs the right to mount; without it the case says so.
void a_small_disk(const fs::path& folder) {
#if defined(__linux__)
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", 0, "size=1m") != 0) {
    std::printf("no small disk to fill: mount: %s\n", std::strerror(errno));
    return;
  }
  {
    const std::string message = message_of([&] { SwapFile(disk / "swap", 2 << 20, {}); });
    CHECK_MESSAGE(message.rfind("IO_NO_SPACE cannot reserve 2.0 MiB for " + disk.string(), 0) == 0,
                  message);
    CHECK_MESSAGE(message.find(" are free") != std::string::npos, message);
    // Its space is taken, not only looked at.
    SwapFile first(disk / "swap", 768 << 10, {});
    CHECK_THROWS_CODE(SwapFile(disk / "second", 768 << 10, {}), "IO_NO_SPACE");
    const auto data = bytes(768 << 10, 3);
    first.copy_in(0, data.data(), data.size());
    std::vector<uint8_t> got(data.size());
    first.copy_out(0, got.data(), got.size());
    CHECK(got == data);
  }
  CHECK(fs::is_empty(disk));
  umount2(disk.c_str(), MNT_DETACH);
#endif
}

}  // namespace

int main() {
  std::string name = fs::temp_directory_path() / "dsjs-swap-XXXXXX";
  if (!mkdtemp(name.data())) return 1;
  if (aio::uring_available()) reads_what_was_written(name, Backend::kUring);
  reads_what_was_written(name, Backend::kThreads);
  what_cannot_be_made(name);
  a_small_disk(name);
  fs::remove_all(name);
  return testing::summary();
}
