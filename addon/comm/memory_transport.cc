// A transport between threads of one process, for tests: every message is copied into the
// receiver's mailbox at once.
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <tuple>

#include "comm/transport.h"
#include "core/error.h"

namespace dsjs {
namespace {

class MemoryTransport;

struct Post {
  std::mutex mutex;
  std::condition_variable delivered;
  // (from, to, tag) → messages in order.
  std::map<std::tuple<int, int, int>, std::deque<std::vector<char>>> boxes;
  std::map<int, MemoryTransport*> ranks;
};

class MemoryExchange final : public Exchange {
 public:
  MemoryExchange(std::shared_ptr<Post> post, int rank, int tag, std::vector<Incoming> incoming)
      : post_(std::move(post)),
        rank_(rank),
        tag_(tag),
        incoming_(std::move(incoming)),
        received_(incoming_.size()) {}

  bool wait(uint64_t nanoseconds) override {
    std::unique_lock lock(post_->mutex);
    return post_->delivered.wait_for(lock, std::chrono::nanoseconds(nanoseconds),
                                     [&] { return take_all(); });
  }

  bool arrived(size_t index) const override { return received_[index].has_value(); }
  size_t received(size_t index) const override { return received_[index].value_or(0); }

 private:
  bool take_all() {
    bool all = true;
    for (size_t index = 0; index < incoming_.size(); ++index) {
      if (received_[index]) continue;
      const Incoming& wanted = incoming_[index];
      auto& box = post_->boxes[{wanted.peer, rank_, tag_}];
      if (box.empty()) {
        all = false;
        continue;
      }
      const std::vector<char> message = std::move(box.front());
      box.pop_front();
      if (message.size() > wanted.bytes)
        throw EngineError("COMM_TRANSPORT",
                          "a message of " + std::to_string(message.size()) + " bytes came where " +
                              std::to_string(wanted.bytes) + " are the most",
                          "receive", rank_, wanted.peer);
      if (!message.empty()) std::memcpy(wanted.data, message.data(), message.size());
      received_[index] = message.size();
    }
    return all;
  }

  std::shared_ptr<Post> post_;
  int rank_, tag_;
  std::vector<Incoming> incoming_;
  std::vector<std::optional<size_t>> received_;
};

class MemoryTransport final : public Transport {
 public:
  MemoryTransport(std::shared_ptr<Post> post, int rank) : post_(std::move(post)), rank_(rank) {
    std::lock_guard lock(post_->mutex);
    post_->ranks[rank_] = this;
  }
  ~MemoryTransport() override {
    std::lock_guard lock(post_->mutex);
    post_->ranks.erase(rank_);
  }

  std::unique_ptr<Exchange> start(int tag, const std::vector<Outgoing>& outgoing,
                                  const std::vector<Incoming>& incoming) override {
    std::lock_guard lock(post_->mutex);
    for (const Outgoing& message : outgoing) {
      const char* data = static_cast<const char*>(message.data);
      post_->boxes[{rank_, message.peer, tag}].emplace_back(data, data + message.bytes);
    }
    post_->delivered.notify_all();
    return std::make_unique<MemoryExchange>(post_, rank_, tag, incoming);
  }

  void notify(int peer, const Notice& notice) override {
    std::lock_guard lock(post_->mutex);
    if (auto found = post_->ranks.find(peer); found != post_->ranks.end())
      found->second->board().post(notice);
  }

  int last_tag() const override { return 1 << 30; }

 private:
  std::shared_ptr<Post> post_;
  int rank_;
};

}  // namespace

std::shared_ptr<Transport> make_memory_transport(const std::string& key, int rank) {
  static std::mutex mutex;
  static auto* posts = new std::map<std::string, std::weak_ptr<Post>>;
  std::lock_guard lock(mutex);
  std::shared_ptr<Post> post = (*posts)[key].lock();
  if (!post) (*posts)[key] = post = std::make_shared<Post>();
  return std::make_shared<MemoryTransport>(std::move(post), rank);
}

}  // namespace dsjs
