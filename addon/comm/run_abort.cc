#include "comm/run_abort.h"

#include <mutex>
#include <optional>
#include <vector>

namespace dsjs {
namespace {

struct News {
  int rank;
  std::string message;
};
using Action = std::function<void(int, const std::string&)>;

struct State {
  std::mutex mutex;
  std::optional<News> abort;
  std::vector<News> left;
  std::vector<Action> at_abort, at_left;
};

State& state() {
  static auto* only = new State;  // outlives every thread
  return *only;
}

}  // namespace

void abort_run(int rank, const std::string& message) {
  std::lock_guard lock(state().mutex);
  if (state().abort) return;
  state().abort = News{rank, message};
  for (const Action& act : state().at_abort) act(rank, message);
}

void at_abort(Action act) {
  std::lock_guard lock(state().mutex);
  if (state().abort)
    act(state().abort->rank, state().abort->message);
  else
    state().at_abort.push_back(std::move(act));
}

void note_left(int rank, const std::string& reason) {
  std::lock_guard lock(state().mutex);
  state().left.push_back({rank, reason});
  for (const Action& act : state().at_left) act(rank, reason);
}

void at_left(Action act) {
  std::lock_guard lock(state().mutex);
  for (const News& news : state().left) act(news.rank, news.message);
  state().at_left.push_back(std::move(act));
}

}  // namespace dsjs
