#include "comm/control_page.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "core/error.h"
#include "core/shared_memory.h"

namespace dsjs {
namespace {

constexpr uint64_t kMagic = 0x3131'736a'7364'6b63;
constexpr size_t kMessageBytes = 2000;

struct alignas(4096) Header {
  uint64_t magic;
  int32_t world_size;
  int32_t channels;
  std::atomic<uint32_t> abort_claimed;
  std::atomic<uint32_t> abort_set;
  int32_t abort_rank;
  char abort_message[kMessageBytes];
};

size_t page_bytes(int world_size) {
  const size_t ranks = static_cast<size_t>(world_size);
  const size_t bytes = sizeof(Header) + ranks * sizeof(RankEntry) +
                       ControlPage::kChannels * (sizeof(ChannelEntry) + ranks * sizeof(Slot));
  return (bytes + kSharedPage - 1) / kSharedPage * kSharedPage;
}

Header* header(char* base) { return reinterpret_cast<Header*>(base); }

void copy_text(char* target, size_t capacity, const std::string& text) {
  const size_t length = std::min(text.size(), capacity - 1);
  std::memcpy(target, text.data(), length);
  target[length] = '\0';
}

}  // namespace

int ControlPage::create(int world_size) {
  const size_t bytes = page_bytes(world_size);
  const int fd = create_shared_memory("deepspeed-js control", bytes);
  try {
    char* base = map_shared_memory(fd, bytes);
    commit_shared_memory(fd, base, 0, bytes);
    Header* head = header(base);
    head->world_size = world_size;
    head->channels = kChannels;
    head->magic = kMagic;
    unmap_shared_memory(base, bytes);
  } catch (...) {
    close(fd);
    throw;
  }
  return fd;
}

ControlPage::ControlPage(int fd, int world_size)
    : world_size_(world_size), bytes_(page_bytes(world_size)) {
  struct stat status;
  const std::string what = "file descriptor " + std::to_string(fd);
  if (fstat(fd, &status) != 0 || static_cast<size_t>(status.st_size) < sizeof(Header))
    throw EngineError("COMM_CONTROL_PAGE", what + " is not the control page of a run", "join");
  base_ = map_shared_memory(fd, bytes_);
  const Header* head = header(base_);
  const bool ours = head->magic == kMagic && head->channels == kChannels;
  const int found = head->world_size;
  if (ours && found == world_size) return;
  unmap_shared_memory(base_, bytes_);
  throw EngineError("COMM_CONTROL_PAGE",
                    ours ? "the run was made for " + std::to_string(found) + " ranks, not " +
                               std::to_string(world_size)
                         : what + " is not the control page of a run of this version",
                    "join");
}

ControlPage::~ControlPage() { unmap_shared_memory(base_, bytes_); }

RankEntry& ControlPage::rank(int rank) const {
  return reinterpret_cast<RankEntry*>(base_ + sizeof(Header))[rank];
}

ChannelEntry& ControlPage::channel(int channel) const {
  char* start = base_ + sizeof(Header) + static_cast<size_t>(world_size_) * sizeof(RankEntry);
  return reinterpret_cast<ChannelEntry*>(start)[channel];
}

Slot& ControlPage::slot(int channel, int member) const {
  char* start = reinterpret_cast<char*>(&this->channel(0) + kChannels);
  return reinterpret_cast<Slot*>(start)[channel * world_size_ + member];
}

void ControlPage::abort(int rank, const std::string& message) {
  Header* head = header(base_);
  if (head->abort_claimed.exchange(1) != 0) return;
  head->abort_rank = rank;
  copy_text(head->abort_message, kMessageBytes, message);
  head->abort_set.store(1);
}

std::optional<ControlPage::Abort> ControlPage::aborted() const {
  const Header* head = header(base_);
  if (head->abort_set.load() == 0) return std::nullopt;
  return Abort{head->abort_rank, head->abort_message};
}

void ControlPage::leave(int rank, const std::string& reason) {
  leave(rank, this->rank(rank).joined.load(), reason);
}

void ControlPage::leave(int rank, uint32_t communicators, const std::string& reason) {
  RankEntry& entry = this->rank(rank);
  const uint32_t left = entry.left.load();
  if (left >= communicators) return;
  // None is open that this reason would be of: who asks wants to know why the last one ended.
  const bool none_open = left > 0 && left == entry.joined.load();
  if (!none_open) copy_text(entry.reason, sizeof entry.reason, reason);
  entry.left.store(communicators);
}

int ControlPage::take_channel(int members) {
  for (int index = kBaseChannels; index < kChannels; ++index) {
    ChannelEntry& entry = channel(index);
    uint32_t free = 0;
    if (!entry.taken.compare_exchange_strong(free, 1)) continue;
    entry.open_members.store(static_cast<uint32_t>(members));
    for (int member = 0; member < world_size_; ++member) new (&slot(index, member)) Slot{};
    return index;
  }
  return -1;
}

void ControlPage::give_back_channel(int index) {
  ChannelEntry& entry = channel(index);
  if (index >= kBaseChannels && entry.open_members.fetch_sub(1) == 1) entry.taken.store(0);
}

}  // namespace dsjs
