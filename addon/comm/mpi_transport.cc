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
// link brings the next piece of a message at once; then a share of what has been waited.
constexpr uint64_t kBusyNs = 1'000'000;
constexpr uint64_t kPauseShare = 100;
constexpr uint64_t kLongestPauseNs = 1'000'000;
// Pauses of the thread that looks when nobody waits: while something is under way that nobody else
// looks at, and otherwise. Each end of a pause interrupts a rank that looks without one: at 200 µs
// it made 31 µs 42 (64 KiB each way, two ranks on two cores).
constexpr auto kBackgroundPause = std::chrono::microseconds(200);
constexpr auto kIdlePause = std::chrono::milliseconds(2);
// Of one wait of a gathering, which cannot be ended.
constexpr uint64_t kGatherWaitNs = 20'000'000;
// How long what was given up may need to end. Memory that MPI may still write to cannot be given
// back; after this MPI is not called any more.
constexpr uint64_t kGiveUpNs = 200'000'000;

// A pause of this thread is as long as it says, and not up to 50 µs longer.
void pause_exactly() {
#if defined(__linux__)
  thread_local const int set = prctl(PR_SET_TIMERSLACK, 1000);
  static_cast<void>(set);
#endif
}

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
  // How many have yet to end.
  std::atomic<uint32_t> left_;

 private:
  std::shared_ptr<Mpi> mpi_;
};

// Whoever holds the lock may call MPI.
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
    std::vector<char> all(own.size() * static_cast<size_t>(place_.size));
    MpiExchange exchange(shared_from_this(), 0, {}, {{place_.rank, all.data(), all.size()}});
    {
      std::lock_guard lock(mutex_);
      check_broken();
      check(table_->gather(own.data(), all.data(), static_cast<int>(own.size()),
                           &exchange.flights_[0].request),
            "MPI_Iallgather");
      running_.push_back(&exchange);
    }
    while (!exchange.wait(kGatherWaitNs)) {
    }
    return all;
  }

  std::unique_ptr<Exchange> start(int tag, const std::vector<Outgoing>& outgoing,
                                  const std::vector<Incoming>& incoming) override {
    auto exchange = std::make_unique<MpiExchange>(shared_from_this(), tag, outgoing, incoming);
    std::lock_guard lock(mutex_);
    check_broken();
    for (Flight& flight : exchange->flights_) begin(flight);
    if (exchange->left_.load() > 0) running_.push_back(exchange.get());
    last_moved_ns_ = monotonic_ns();
    return exchange;
  }

  // Who tells that it goes is not to be kept from it: an error of MPI meets whoever waits.
  void notify(int peer, const Notice& notice) override {
    std::lock_guard lock(mutex_);
    if (!broken_.empty() || finished_) return;
    auto& [kept, request] = told_.emplace_back(std::make_unique<Notice>(notice), nullptr);
    note(table_->send(kept.get(), sizeof(Notice), peer, 0, &request), "MPI_Isend");
  }

  // Whether everything of the exchange has ended. Who waits does what MPI has to do.
  bool wait(MpiExchange& exchange, uint64_t nanoseconds) {
    struct Waiting {
      std::atomic<int>& count;
      explicit Waiting(std::atomic<int>& waiting) : count(waiting) { ++count; }
      ~Waiting() { --count; }
    } const here(waiting_);
    const uint64_t until = monotonic_ns() + nanoseconds;
    while (exchange.left_.load() != 0) {
      uint64_t moved;
      {
        std::lock_guard lock(mutex_);
        check_broken();
        look();
        ++looks_;
        moved = last_moved_ns_;
      }
      if (exchange.left_.load() == 0) break;
      const uint64_t now = monotonic_ns();
      if (now >= until) return false;
      if (now < moved + kBusyNs) {
        std::this_thread::yield();
      } else {
        pause_exactly();
        std::this_thread::sleep_for(
            std::chrono::nanoseconds(std::min((now - moved) / kPauseShare, kLongestPauseNs)));
      }
    }
    return true;
  }

  // Ends what has not come. Afterwards MPI touches none of its memory. An error of MPI meets
  // whoever waits.
  void give_up(MpiExchange& exchange) noexcept {
    std::lock_guard lock(mutex_);
    if (exchange.left_.load() == 0) return;
    try {
      if (broken_.empty()) abandon(exchange);
    } catch (const EngineError&) {
    }
    std::erase(running_, &exchange);
  }

  // At the end of a process that succeeded: MPI_Finalize, which waits for the other ranks. One that
  // fails does not wait.
  void finish() {
    std::unique_lock lock(mutex_);
    if (finished_ || !broken_.empty()) return;
    finishing_ = true;
    changed_.wait(lock, [&] { return finished_ || !broken_.empty(); });
  }

  // A rank that will not come: MPI_Init would wait for it for ever.
  void miss(int rank, const std::string& reason) {
    std::lock_guard lock(mutex_);
    if (started_ || !broken_.empty()) return;
    broken_peer_ = rank;
    break_off("COMM_PEER_LEFT", "rank " + std::to_string(rank) + " has left (" + reason +
                                    ") before all ranks had met");
  }

  void stop(const char* code, const std::string& why) override {
    // While MPI blocks in a call of its own, the thread holds no lock.
    std::lock_guard lock(mutex_);
    break_off(code, why);
  }

 private:
  // Begins and ends MPI, and looks at what is under way when nobody waits for it.
  void run() {
    try {
      if (const int error = table_->start(&place_); error != 0)
        throw EngineError("COMM_TRANSPORT", explain(error, "MPI_Init"));
      if (!place_.any_thread)
        throw EngineError("COMM_TRANSPORT",
                          "this MPI may be called by one thread only (MPI_THREAD_SERIALIZED is not "
                          "provided)");
      pause_exactly();
      {
        std::lock_guard lock(mutex_);
        check(table_->receive_any(&incoming_notice_, sizeof incoming_notice_, &notice_request_),
              "MPI_Irecv");
        started_ = true;
        changed_.notify_all();
      }
      uint32_t looks = 0;
      for (std::chrono::microseconds pause = kIdlePause;;) {
        std::this_thread::sleep_for(pause);
        const bool others_look = waiting_.load() > 0 || looks_.load() != looks;
        looks = looks_.load();
        pause = kIdlePause;
        if (others_look && !finishing_.load()) continue;
        // Never in line for the lock: whoever calls MPI often would hand it over at each call.
        std::unique_lock lock(mutex_, std::try_to_lock);
        if (!lock) continue;
        if (!broken_.empty() || finished_) return;
        look();
        if (finishing_.load() && running_.empty()) finalize(lock);
        if (finishing_.load() || !running_.empty() || !told_.empty()) pause = kBackgroundPause;
      }
    } catch (const EngineError& error) {
      stop("COMM_TRANSPORT", error.what());
    }
  }

  // One look at everything that is under way.
  void look() {
    bool moved = advance();
    std::erase_if(told_, [&](auto& told) { return told.second == nullptr; });
    if (notice_request_ == nullptr) {
      // What its rank sent before may have come in the same moment, and is to be seen first.
      advance();
      board().post(incoming_notice_);
      check(table_->receive_any(&incoming_notice_, sizeof incoming_notice_, &notice_request_),
            "MPI_Irecv");
      moved = true;
    }
    if (moved) last_moved_ns_ = monotonic_ns();
  }

  // Whether anything has ended; requests that have are null.
  bool advance() {
    requests_.clear();
    flights_.clear();
    const auto add = [&](void** request, Flight* flight) {
      if (*request == nullptr) return;
      requests_.push_back(request);
      flights_.push_back(flight);
    };
    for (MpiExchange* exchange : running_)
      for (Flight& flight : exchange->flights_) add(&flight.request, &flight);
    for (auto& told : told_) add(&told.second, nullptr);
    add(&notice_request_, nullptr);
    received_.resize(requests_.size());
    int ended = 0;
    check(table_->test(requests_.data(), static_cast<int>(requests_.size()), received_.data(),
                       &ended),
          "MPI_Testsome");
    if (ended == 0) return false;
    for (size_t index = 0; index < requests_.size(); ++index) {
      Flight* const flight = flights_[index];
      if (flight == nullptr || flight->request != nullptr) continue;
      if (!flight->sends) flight->bytes = received_[index];
      flight->ended.store(true);
    }
    std::erase_if(running_, [](MpiExchange* exchange) {
      const auto& flights = exchange->flights_;
      const auto left = static_cast<uint32_t>(std::count_if(
          flights.begin(), flights.end(), [](const Flight& flight) { return !flight.ended; }));
      // Its owner may let it go from here on.
      exchange->left_.store(left);
      return left == 0;
    });
    return true;
  }

  void begin(Flight& flight) {
    if (flight.sends)
      check(table_->send(flight.data, flight.bytes, flight.peer, flight.tag, &flight.request),
            "MPI_Isend");
    else
      check(table_->receive(flight.data, flight.bytes, flight.peer, flight.tag, &flight.request),
            "MPI_Irecv");
  }

  void abandon(MpiExchange& exchange) {
    for (Flight& flight : exchange.flights_)
      if (flight.request != nullptr && !flight.sends)
        check(table_->cancel(flight.request), "MPI_Cancel");
    const uint64_t until = monotonic_ns() + kGiveUpNs;
    while (exchange.left_.load() != 0 && monotonic_ns() < until) {
      advance();
      std::this_thread::yield();
    }
    if (exchange.left_.load() != 0)
      break_off("COMM_TRANSPORT",
                "a transfer was given up in its middle, and MPI may still use its memory");
  }

  // What was told must leave first: MPI_Finalize would not wait for it everywhere.
  void finalize(std::unique_lock<std::mutex>& lock) {
    if (!told_.empty()) return;
    table_->cancel(notice_request_);
    for (int turns = 0; turns < 1000 && notice_request_ != nullptr; ++turns) advance();
    lock.unlock();
    const int error = table_->finish();
    lock.lock();
    if (error != 0) break_off("COMM_TRANSPORT", "MPI_Finalize failed");
    finished_ = true;
    changed_.notify_all();
  }

  // MPI is not called any more.
  void break_off(const char* code, const std::string& why) {
    if (broken_.empty()) {
      broken_ = why;
      broken_code_ = code;
    }
    changed_.notify_all();
  }

  void check_broken() const {
    if (!broken_.empty()) throw EngineError(broken_code_, broken_, "", place_.rank, broken_peer_);
  }

  std::string explain(int error, const char* call) const {
    char text[512];
    table_->explain(error, text, sizeof text);
    return std::string(call) + ": " + text;
  }

  // After an error MPI is not called any more.
  void note(int error, const char* call) {
    if (error != 0) break_off("COMM_TRANSPORT", explain(error, call));
  }

  void check(int error, const char* call) {
    note(error, call);
    check_broken();
  }

  const DsjsMpiTable* table_;
  DsjsMpiPlace place_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false, finished_ = false;
  std::atomic<bool> finishing_{false};
  std::string broken_;  // why MPI is not called any more
  const char* broken_code_ = "COMM_TRANSPORT";
  int broken_peer_ = -1;
  std::atomic<int> waiting_{0};
  std::atomic<uint32_t> looks_{0};  // of those who waited
  uint64_t last_moved_ns_ = 0;

  std::vector<MpiExchange*> running_;
  std::vector<std::pair<std::unique_ptr<Notice>, void*>> told_;
  Notice incoming_notice_{};
  void* notice_request_ = nullptr;
  // Of the newest look; kept for their memory.
  std::vector<void**> requests_;
  std::vector<Flight*> flights_;
  std::vector<size_t> received_;
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
  at_left([](int rank, const std::string& reason) { opened()->miss(rank, reason); });
  opened()->begin_thread();
#if defined(__GLIBC__)
  on_exit(finish_at_exit, nullptr);
#else
  std::atexit([] { finish_at_exit(0, nullptr); });
#endif
  return opened();
}

}  // namespace dsjs
