// send and recv: pieces in the sender's arena, handed over one at a time. A message that lies in
// the arena is one piece, read in place; another goes through the sender's staging.
#include <algorithm>
#include <cstring>

#include "comm/group.h"
#include "core/error.h"
#include "core/futex.h"

namespace dsjs {
namespace {

void advance(std::atomic<uint32_t>& word, uint32_t value, const Outbox& box) {
  word.store(value);
  if (box.waiters.load() != 0) futex_wake_all(word);
}

std::string sizes(uint64_t sent, int sender, uint64_t expected, int receiver) {
  return "rank " + std::to_string(sender) + " sends " + std::to_string(sent) + " bytes, rank " +
         std::to_string(receiver) + " receives " + std::to_string(expected);
}

}  // namespace

template <class Body>
void Group::message(Operation operation, size_t bytes, int peer, const Body& body) {
  check_member(operation, peer);
  if (peer == rank())
    throw EngineError("INVALID_ARGUMENT", "a rank cannot exchange messages with itself",
                      operation_name(operation), rank(), peer);
  CallTimer timer(stats_, operation_name(operation), bytes, channel_->waited_ns());
  try {
    channel_->begin_message(operation, peer, bytes);
    body();
  } catch (...) {
    channel_->withdraw(std::current_exception());
    throw;
  }
  timer.finish(channel_->waited_ns(), bytes_per_second_);
}

void Group::send(const void* data, size_t bytes, int peer) {
  message(Operation::kSend, bytes, peer, [&] {
    const int64_t location = bytes == 0 ? 0 : locate(data, bytes);
    if (location < 0) open_staging();
    Outbox& box = channel_->outbox(rank(), peer);
    size_t sent = 0;
    do {
      const size_t piece = location >= 0 ? bytes : std::min(kChunkBytes, bytes - sent);
      box.location = location;
      if (location < 0) {
        std::memcpy(message_staging(), static_cast<const char*>(data) + sent, piece);
        box.location = message_staging() - channel_->arena_base(rank());
      }
      box.piece_bytes = piece;
      box.message_bytes = bytes;
      const uint32_t number = box.posted.load() + 1;
      advance(box.posted, number, box);
      channel_->wait_outbox(peer, box.taken, box.waiters, number);
      if (box.refused.load() != 0)
        channel_->fail(
            "COMM_MISMATCH",
            sizes(bytes, channel_->number(rank()), box.refused_bytes, channel_->number(peer)),
            peer);
      sent += piece;
    } while (sent < bytes);
  });
}

void Group::recv(void* data, size_t bytes, int peer) {
  message(Operation::kReceive, bytes, peer, [&] {
    Slot& own = channel_->slot(rank());
    channel_->wait_opened(peer);
    Outbox& box = channel_->outbox(peer, rank());
    size_t received = 0;
    do {
      const uint32_t number = box.taken.load() + 1;
      own.receiving.store(uint64_t{number} << 32 | static_cast<uint64_t>(peer + 1));
      channel_->wait_outbox(peer, box.posted, box.waiters, number);
      own.receiving.store(0);
      // Read before the sender is let go, whose memory it is: it may end at once, and be gone.
      const uint64_t message_bytes = box.message_bytes;
      if (message_bytes != bytes) {
        box.refused_bytes = bytes;
        box.refused.store(1);
        advance(box.taken, number, box);
        channel_->fail(
            "COMM_MISMATCH",
            sizes(message_bytes, channel_->number(peer), bytes, channel_->number(rank())), peer);
      }
      if (box.piece_bytes > 0)
        std::memcpy(static_cast<char*>(data) + received, channel_->arena_base(peer) + box.location,
                    box.piece_bytes);
      received += box.piece_bytes;
      advance(box.taken, number, box);
    } while (received < bytes);
  });
}

}  // namespace dsjs
