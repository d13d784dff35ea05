// The transport by MPI over a module that fails on command, in a process for each case: MPI is
// started once a process.
#include "comm/mpi_transport.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "comm/run_abort.h"
#include "core/error.h"
#include "core/testing.h"

using namespace dsjs;
using namespace std::chrono_literals;

namespace {

enum State { kWorks, kFailsToSend, kFailsToTest, kNeverStarts };

struct Fake {
  std::shared_ptr<MpiTransport> transport;
  volatile int* state;
  volatile int* looks;

  explicit Fake(State begins = kWorks) {
    const auto module =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "mpi_fake.so";
    void* const library = dlopen(module.c_str(), RTLD_NOW);
    state = static_cast<int*>(dlsym(library, "fake_mpi_state"));
    looks = static_cast<int*>(dlsym(library, "fake_mpi_looks"));
    *state = begins;
    transport = MpiTransport::open(module);
  }
  std::unique_ptr<Exchange> receive() { return transport->start(5, {}, {{1, &room, 1}}); }
  char room = 0;
};

std::string thrown_by(const std::function<void()>& body) {
  try {
    body();
    return "nothing";
  } catch (const EngineError& error) {
    return error.code() + " " + error.what();
  }
}

const std::string kTestFails = "COMM_TRANSPORT MPI_Testsome: as the test says";

// Who waits hears of the error, and so does everybody later.
int an_error_meets_who_waits() {
  Fake fake;
  const auto exchange = fake.receive();
  *fake.state = kFailsToTest;
  CHECK(thrown_by([&] { exchange->wait(1'000'000'000); }) == kTestFails);
  CHECK(thrown_by([&] { fake.receive(); }) == kTestFails);
  fake.transport->notify(1, Notice{});
  return testing::summary();
}

int an_error_while_giving_up_is_heard_later() {
  Fake fake;
  auto exchange = fake.receive();
  *fake.state = kFailsToTest;
  exchange.reset();
  CHECK(thrown_by([&] { fake.receive(); }) == kTestFails);
  return testing::summary();
}

int an_error_while_telling_is_heard_later() {
  Fake fake;
  *fake.state = kFailsToSend;
  fake.transport->notify(1, Notice{});
  CHECK(thrown_by([&] { fake.receive(); }) == "COMM_TRANSPORT MPI_Isend: as the test says");
  return testing::summary();
}

int who_has_left_is_not_waited_for(const std::function<void()>& tell) {
  std::thread telling(tell);
  CHECK(thrown_by([] { Fake fake(kNeverStarts); }) ==
        "COMM_PEER_LEFT rank 1 has left (its script was over) before all ranks had met");
  telling.join();
  // MPI_Init never returns.
  _exit(testing::summary());
}

int who_has_left_before_is_not_waited_for() {
  note_left(1, "its script was over");
  return who_has_left_is_not_waited_for([] {});
}

int who_leaves_meanwhile_is_not_waited_for() {
  return who_has_left_is_not_waited_for([] {
    std::this_thread::sleep_for(20ms);
    note_left(1, "its script was over");
  });
}

// Once all have met there are better ways to say so.
int who_leaves_later_is_no_error_of_the_transport() {
  Fake fake;
  note_left(1, "its script was over");
  fake.receive();
  return testing::summary();
}

// A process that ends well waits for what another of its threads still waits for. Nothing here is
// ever destroyed, as in a process that ends in the midst of its work.
int the_end_waits_for_what_is_under_way() {
  auto* const fake = new Fake;
  auto* const exchange = fake->receive().release();
  auto* const waits = new std::atomic<bool>(false);
  std::thread([=] {
    waits->store(true);
    while (!exchange->wait(1'000'000)) {
    }
  }).detach();
  while (!waits->load()) std::this_thread::yield();
  std::thread([=] {
    std::this_thread::sleep_for(50ms);
    *fake->looks = 100;
  }).detach();
  CHECK(!exchange->arrived(0));
  return testing::summary();
}

// Also when nobody waits for it.
int the_end_looks_for_what_nobody_waits_for() {
  auto* const fake = new Fake;
  auto* const exchange = fake->receive().release();
  *fake->looks = 100;
  CHECK(!exchange->arrived(0));
  return testing::summary();
}

}  // namespace

int main() {
  for (const auto& body :
       {an_error_meets_who_waits, an_error_while_giving_up_is_heard_later,
        an_error_while_telling_is_heard_later, who_has_left_before_is_not_waited_for,
        who_leaves_meanwhile_is_not_waited_for, who_leaves_later_is_no_error_of_the_transport,
        the_end_waits_for_what_is_under_way, the_end_looks_for_what_nobody_waits_for}) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);          // one that hangs has failed
      std::exit(body());  // with 0 MPI is finalized
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_MESSAGE(status == 0, "a case ended with status " + std::to_string(status));
  }
  return testing::summary();
}
