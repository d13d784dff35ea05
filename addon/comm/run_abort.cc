#include "comm/run_abort.h"

#include <mutex>
#include <optional>
#include <vector>

namespace dsjs {
namespace {

struct Abort {
  int rank;
  std::string message;
};

struct State {
  std::mutex mutex;
  std::optional<Abort> abort;
  std::vector<std::function<void(int, const std::string&)>> actions;
};

State& state() {
  static auto* only = new State;  // outlives every thread
  return *only;
}

}  // namespace

void abort_run(int rank, const std::string& message) {
  std::lock_guard lock(state().mutex);
  if (state().abort) return;
  state().abort = Abort{rank, message};
  for (const auto& act : state().actions) act(rank, message);
}

void at_abort(std::function<void(int, const std::string&)> act) {
  std::lock_guard lock(state().mutex);
  if (state().abort)
    act(state().abort->rank, state().abort->message);
  else
    state().actions.push_back(std::move(act));
}

}  // namespace dsjs
