#include "comm/mpi_transport.h"

#include <dlfcn.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <thread>

#include "comm/run_abort.h"
#include "core/build_id.h"
#include "core/error.h"
#include "core/futex.h"
#include "mpi/mpi_table.h"

namespace dsjs {
namespace {

// Between looks at what is under way: at first none, but whoever else can run does, since a fast
// link brings the next piece of a message at once; then longer and longer, up to a fifth of what a
// message over Ethernet needs anyway. With nothing under way the pauses begin earlier.
constexpr uint64_t kBusyNs = 50'000;
constexpr uint64_t kBusyUnderWayNs = 1'000'000;
constexpr auto kShortPause = std::chrono::microseconds(10);
constexpr auto kLongPause = std::chrono::microseconds(100);
constexpr auto kIdlePause = std::chrono::milliseconds(2);
constexpr uint64_t kPatientNs = 4'000'000;
// How long what was given up may need to end. Memory that MPI may still write to cannot be given
// back; after this MPI is not called any more.
constexpr uint64_t kGiveUpNs = 200'000'000;

// One message under way.
struct Flight {
  bool sends;
  int peer, tag;
  char* data;
  size_t bytes;
  void* request = nullptr;
  std::atomic<bool> ended{false};
};

class Mpi;

class MpiExchange final : public Exchange {
 public:
  MpiExchange(std::shared_ptr<Mpi> mpi, int tag, const std::vector<Outgoing>& outgoing,
              const std::vector<Incoming>& incoming);
  ~MpiExchange() override;
  bool wait(uint64_t nanoseconds) override;
  bool arrived(size_t index) const override { return flights_[index].ended.load(); }
  size_t received(size_t index) const override { return flights_[index].bytes; }

  // Incoming first, then outgoing.
  std::deque<Flight> flights_;
  // Of the thread: started, and how many have yet to end.
  std::atomic<uint32_t> left_;

 private:
  std::shared_ptr<Mpi> mpi_;
};

class Mpi final : public MpiTransport, public std::enable_shared_from_this<Mpi> {
 public:
  explicit Mpi(const DsjsMpiTable* table) : table_(table) {}

  // MPI_Init, which waits for the other ranks, too.
  void begin_thread() {
    std::thread([this] { run(); }).detach();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_ || !broken_.empty(); });
    check_broken();
  }

  void require_started() {
    std::lock_guard lock(mutex_);
    check_broken();
  }

  int rank() const override { return place_.rank; }
  int size() const override { return place_.size; }
  int host_leader() const override { return place_.host_leader; }
  int last_tag() const override { return place_.last_tag; }

  std::string library() const override {
    char text[256];
    table_->library(text, sizeof text);
    return text;
  }

  std::vector<char> gather(const std::vector<char>& own) override {
    struct Gather {
      std::vector<char> own, all;
    };
    auto data = std::make_shared<Gather>();
    data->own = own;
    data->all.resize(own.size() * static_cast<size_t>(place_.size));
    on_thread([this, data] {
      check(table_->gather(data->own.data(), data->all.data(), static_cast<int>(data->own.size())),
            "MPI_Allgather");
    });
    return data->all;
  }

  std::unique_ptr<Exchange> start(int tag, const std::vector<Outgoing>& outgoing,
                                  const std::vector<Incoming>& incoming) override {
    auto exchange = std::make_unique<MpiExchange>(shared_from_this(), tag, outgoing, incoming);
    std::lock_guard lock(mutex_);
    check_broken();
    // One of no messages has ended: its owner may let it go before the thread would look at it.
    if (exchange->left_.load() == 0) return exchange;
    starting_.push_back(exchange.get());
    changed_.notify_all();
    return exchange;
  }

  void notify(int peer, const Notice& notice) override {
    std::lock_guard lock(mutex_);
    if (!broken_.empty() || finished_) return;
    telling_.emplace_back(peer, notice);
    changed_.notify_all();
  }

  // Whether everything of the exchange has ended.
  bool wait(MpiExchange& exchange, uint64_t nanoseconds) {
    const uint64_t until = monotonic_ns() + nanoseconds;
    while (true) {
      const uint32_t left = exchange.left_.load(std::memory_order_acquire);
      if (left == 0) return true;
      if (stopped_.load()) {
        std::lock_guard lock(mutex_);
        check_broken();
      }
      const uint64_t now = monotonic_ns();
      if (now >= until) return false;
      futex_wait(exchange.left_, left, until - now);
    }
  }

  // Ends what has not come. Afterwards MPI touches none of its memory.
  void give_up(MpiExchange& exchange) {
    std::unique_lock lock(mutex_);
    if (!broken_.empty() || exchange.left_.load() == 0) return;
    giving_up_.push_back(&exchange);
    changed_.notify_all();
    changed_.wait(lock, [&] {
      return std::find(giving_up_.begin(), giving_up_.end(), &exchange) == giving_up_.end() ||
             !broken_.empty();
    });
  }

  // At the end of a process that succeeded: MPI_Finalize, which waits for the other ranks. One that
  // fails does not wait.
  void finish() {
    std::unique_lock lock(mutex_);
    if (finished_ || !broken_.empty()) return;
    finishing_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return finished_ || !broken_.empty(); });
  }

  void stop(const char* code, const std::string& why) override {
    // While MPI blocks in a call of its own, the thread holds no lock.
    std::lock_guard lock(mutex_);
    if (broken_.empty()) {
      broken_ = why;
      broken_code_ = code;
    }
    stopped_.store(true);
    changed_.notify_all();
  }

 private:
  void run() {
#if defined(__linux__)
    // A pause is as long as it says, and not up to 50 µs longer.
    prctl(PR_SET_TIMERSLACK, 1000);
#endif
    try {
      check(table_->start(&place_), "MPI_Init");
      check(table_->receive_any(&incoming_notice_, sizeof incoming_notice_, &notice_request_),
            "MPI_Irecv");
      std::unique_lock lock(mutex_);
      started_ = true;
      changed_.notify_all();
      uint64_t last_progress = monotonic_ns();
      while (broken_.empty() && !finished_) {
        if (turn(lock)) last_progress = monotonic_ns();
        const uint64_t idle = monotonic_ns() - last_progress;
        if (running_.empty() && idle >= kBusyNs) {
          // Nothing is awaited, but MPI may still hold what it has taken over to send.
          const auto pause = idle < kPatientNs ? kLongPause : kIdlePause;
          changed_.wait_for(lock, pause, [&] { return has_orders() || !broken_.empty(); });
          if (has_orders()) last_progress = monotonic_ns();
          continue;
        }
        lock.unlock();
        if (idle < kBusyUnderWayNs)
          std::this_thread::yield();
        else
          std::this_thread::sleep_for(idle < kPatientNs ? kShortPause : kLongPause);
        lock.lock();
      }
    } catch (const EngineError& error) {
      stop("COMM_TRANSPORT", error.what());
    }
  }

  bool has_orders() const {
    return !starting_.empty() || !telling_.empty() || !giving_up_.empty() || order_ != nullptr ||
           finishing_;
  }

  // One look at everything, with the lock held while orders are taken. Whether anything moved.
  bool turn(std::unique_lock<std::mutex>& lock) {
    bool moved = has_orders();
    while (!starting_.empty()) {
      MpiExchange* exchange = starting_.front();
      starting_.pop_front();
      for (Flight& flight : exchange->flights_) begin(flight);
      running_.push_back(exchange);
    }
    while (!telling_.empty()) {
      auto& [peer, notice] = telling_.front();
      told_.push_back({std::make_unique<Notice>(notice), nullptr});
      check(table_->send(told_.back().first.get(), sizeof(Notice), peer, 0, &told_.back().second),
            "MPI_Isend");
      telling_.pop_front();
    }
    moved |= advance_running();
    std::erase_if(told_, [&](auto& told) {
      size_t bytes;
      return ended(told.second, bytes);
    });
    size_t bytes;
    if (ended(notice_request_, bytes)) {
      // What its rank sent before may have come in the same moment, and is to be seen first.
      advance_running();
      board().post(incoming_notice_);
      check(table_->receive_any(&incoming_notice_, sizeof incoming_notice_, &notice_request_),
            "MPI_Irecv");
      moved = true;
    }
    while (!giving_up_.empty()) {
      abandon(*giving_up_.front());
      giving_up_.pop_front();
      changed_.notify_all();
    }
    if (order_) {
      const auto order = order_;
      lock.unlock();
      (*order)();
      lock.lock();
      order_.reset();
      changed_.notify_all();
    }
    if (finishing_ && running_.empty()) {
      finalize(lock);
    }
    return moved;
  }

  // Whether anything has ended.
  bool advance_running() {
    bool moved = false;
    std::erase_if(running_, [&](MpiExchange* exchange) {
      moved |= advance(*exchange);
      // Its owner may go as soon as the lock is free.
      return exchange->left_.load() == 0;
    });
    return moved;
  }

  void begin(Flight& flight) {
    if (flight.sends)
      check(table_->send(flight.data, flight.bytes, flight.peer, flight.tag, &flight.request),
            "MPI_Isend");
    else
      check(table_->receive(flight.data, flight.bytes, flight.peer, flight.tag, &flight.request),
            "MPI_Irecv");
  }

  bool ended(void* request, size_t& bytes) {
    int done = 0;
    check(table_->test(request, &done, &bytes), "MPI_Test");
    return done != 0;
  }

  bool advance(MpiExchange& exchange) {
    bool moved = false;
    uint32_t finished = 0;
    for (Flight& flight : exchange.flights_) {
      size_t bytes = 0;
      if (flight.ended.load() || !ended(flight.request, bytes)) continue;
      if (!flight.sends) flight.bytes = bytes;
      flight.ended.store(true);
      ++finished;
      moved = true;
    }
    if (finished > 0 && exchange.left_.fetch_sub(finished) == finished)
      futex_wake_all(exchange.left_);
    return moved;
  }

  void abandon(MpiExchange& exchange) {
    for (Flight& flight : exchange.flights_)
      if (!flight.ended.load() && !flight.sends)
        check(table_->cancel(flight.request), "MPI_Cancel");
    const uint64_t until = monotonic_ns() + kGiveUpNs;
    while (exchange.left_.load() != 0 && monotonic_ns() < until) {
      advance(exchange);
      std::this_thread::yield();
    }
    std::erase(running_, &exchange);
    if (exchange.left_.load() == 0) return;
    broken_ = "a transfer was given up in its middle, and MPI may still use its memory";
    stopped_.store(true);
  }

  // What was told must leave first: MPI_Finalize would not wait for it everywhere.
  void finalize(std::unique_lock<std::mutex>& lock) {
    if (!told_.empty()) return;
    table_->cancel(notice_request_);
    size_t bytes;
    for (int turns = 0; turns < 1000 && !ended(notice_request_, bytes); ++turns) {
    }
    lock.unlock();
    const int error = table_->finish();
    lock.lock();
    if (error != 0) broken_ = "MPI_Finalize failed";
    finished_ = true;
    changed_.notify_all();
  }

  void on_thread(std::function<void()> order) {
    std::unique_lock lock(mutex_);
    check_broken();
    order_ = std::make_shared<std::function<void()>>(std::move(order));
    changed_.notify_all();
    changed_.wait(lock, [&] { return !order_ || !broken_.empty(); });
    check_broken();
  }

  void check_broken() const {
    if (!broken_.empty()) throw EngineError(broken_code_, broken_, "", place_.rank);
  }

  void check(int error, const char* call) const {
    if (error == 0) return;
    char text[512];
    table_->explain(error, text, sizeof text);
    throw EngineError("COMM_TRANSPORT", std::string(call) + ": " + text, "", place_.rank);
  }

  const DsjsMpiTable* table_;
  DsjsMpiPlace place_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false, finishing_ = false, finished_ = false;
  std::string broken_;  // why MPI is not called any more
  const char* broken_code_ = "COMM_TRANSPORT";
  std::atomic<bool> stopped_{false};
  std::deque<MpiExchange*> starting_, giving_up_;
  std::deque<std::pair<int, Notice>> telling_;
  // A blocking call for the thread to make. It outlives its caller when the run is aborted.
  std::shared_ptr<std::function<void()>> order_;

  // Of the thread alone.
  std::vector<MpiExchange*> running_;
  std::vector<std::pair<std::unique_ptr<Notice>, void*>> told_;
  Notice incoming_notice_{};
  void* notice_request_ = nullptr;
};

MpiExchange::MpiExchange(std::shared_ptr<Mpi> mpi, int tag, const std::vector<Outgoing>& outgoing,
                         const std::vector<Incoming>& incoming)
    : left_(static_cast<uint32_t>(incoming.size() + outgoing.size())), mpi_(std::move(mpi)) {
  for (const Incoming& message : incoming) {
    Flight& flight = flights_.emplace_back();
    flight.sends = false;
    flight.peer = message.peer;
    flight.tag = tag;
    flight.data = static_cast<char*>(message.data);
    flight.bytes = message.bytes;
  }
  for (const Outgoing& message : outgoing) {
    Flight& flight = flights_.emplace_back();
    flight.sends = true;
    flight.peer = message.peer;
    flight.tag = tag;
    flight.data = static_cast<char*>(const_cast<void*>(message.data));
    flight.bytes = message.bytes;
  }
}

MpiExchange::~MpiExchange() { mpi_->give_up(*this); }
bool MpiExchange::wait(uint64_t nanoseconds) { return mpi_->wait(*this, nanoseconds); }

// Never freed: the thread runs until the process ends.
std::shared_ptr<Mpi>& opened() {
  static auto* mpi = new std::shared_ptr<Mpi>;
  return *mpi;
}

void finish_at_exit(int status, void*) {
  if (status == 0)
    opened()->finish();
  else  // MPI's own memory goes away from here on.
    opened()->stop("COMM_TRANSPORT", "the process ends");
}

}  // namespace

std::shared_ptr<MpiTransport> MpiTransport::open(const std::string& module) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (opened()) {
    opened()->require_started();
    return opened();
  }
  // Global: MPI loads parts of itself later, and these look for it among what is loaded.
  void* library = dlopen(module.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr)
    throw EngineError("MPI_NOT_BUILT", std::string("the MPI module does not load: ") + dlerror(),
                      "createCommunicator");
  const auto entry = reinterpret_cast<DsjsMpiEntry>(dlsym(library, DSJS_MPI_SYMBOL));
  if (entry == nullptr || std::strcmp(entry()->build_id, build_id()) != 0)
    throw EngineError("MPI_NOT_BUILT", module + " was not built together with this engine",
                      "createCommunicator");
  opened() = std::make_shared<Mpi>(entry());
  at_abort([](int, const std::string& message) { opened()->stop("COMM_ABORTED", message); });
  opened()->begin_thread();
#if defined(__GLIBC__)
  on_exit(finish_at_exit, nullptr);
#else
  std::atexit([] { finish_at_exit(0, nullptr); });
#endif
  return opened();
}

}  // namespace dsjs
