// Queues: order, dependencies, failures, tracing, closing, and that ended works leave nothing
// behind.
#include "engine/queue.h"

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "core/testing.h"

using namespace dsjs;

namespace {

std::string code_of(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
    return "none";
  } catch (const EngineError& e) {
    return e.code();
  }
}

void fail_with(const char* code) { throw EngineError(code, "on purpose"); }

void runs_in_order() {
  Queues queues;
  std::vector<int> seen;
  WorkId last = 0;
  for (int i = 0; i < 1000; i++)
    last = queues.enqueue(QueueId::kCompute, "step", {}, [&seen, i] { seen.push_back(i); });
  queues.wait(last);
  bool ordered = seen.size() == 1000;
  for (size_t i = 0; i < seen.size(); i++) ordered = ordered && seen[i] == static_cast<int>(i);
  CHECK(ordered);
}

void waits_for_dependencies_across_queues() {
  Queues queues;
  std::promise<void> gate;
  std::vector<char> seen;
  const WorkId a = queues.enqueue(QueueId::kCompute, "a", {}, [&] {
    gate.get_future().wait();
    seen.push_back('a');
  });
  const WorkId b = queues.enqueue(QueueId::kComm, "b", {a}, [&] { seen.push_back('b'); });
  const WorkId c = queues.enqueue(QueueId::kIo, "c", {a, b}, [&] { seen.push_back('c'); });
  const WorkId d = queues.enqueue(QueueId::kCompute, "d", {c}, [&] { seen.push_back('d'); });
  gate.set_value();
  queues.wait(d);
  CHECK((seen == std::vector<char>{'a', 'b', 'c', 'd'}));
}

void external_works_end_when_told() {
  ExternalWork outlives;
  {
    Queues queues;
    std::atomic<int> ran = 0;
    std::promise<void> asked_for;
    bool is_wanted = false;
    const ExternalWork gate = queues.external("gate", [&] { asked_for.set_value(); });
    const ExternalWork broken = queues.external("broken", [&] { is_wanted = true; });
    const WorkId behind = queues.enqueue(QueueId::kCompute, "behind", {gate.id}, [&] { ++ran; });
    const WorkId other = queues.enqueue(QueueId::kIo, "other", {}, [&] { ++ran; });
    queues.wait(other);
    asked_for.get_future().wait();
    CHECK(ran == 1);
    gate.end(nullptr);
    gate.end(nullptr);  // once is enough
    queues.wait(behind);
    CHECK(ran == 2);
    CHECK(!is_wanted);
    queues.on_done(broken.id, [](std::exception_ptr) {});
    CHECK(is_wanted);
    broken.end(std::make_exception_ptr(EngineError("BROKEN", "on purpose")));
    CHECK_THROWS_CODE(queues.wait(broken.id), "BROKEN");
    CHECK_THROWS_CODE(queues.idle(), "BROKEN");
    outlives = queues.external("outlives");
    queues.idle();  // does not wait for it
    queues.on_done(outlives.id, [&](std::exception_ptr error) {
      CHECK(code_of(error) == "DISPOSED");
      ++ran;
    });
    queues.close();
    CHECK(ran == 3);
    CHECK_THROWS_CODE(queues.external("late"), "DISPOSED");
  }
  outlives.end(nullptr);
}

void failure_reaches_every_dependent_and_nothing_else() {
  Queues queues;
  std::atomic<bool> ran_dependent = false, ran_other = false;
  const WorkId a = queues.enqueue(QueueId::kCompute, "a", {}, [] { fail_with("FIRST"); });
  const WorkId b = queues.enqueue(QueueId::kComm, "b", {a}, [&] { ran_dependent = true; });
  const WorkId c = queues.enqueue(QueueId::kIo, "c", {b}, [&] { ran_dependent = true; });
  const WorkId other = queues.enqueue(QueueId::kCompute, "other", {}, [&] { ran_other = true; });
  CHECK_THROWS_CODE(queues.wait(c), "FIRST");
  CHECK_THROWS_CODE(queues.wait(b), "FIRST");
  queues.wait(other);
  CHECK(ran_other);
  CHECK(!ran_dependent);
  // A dependent that comes after the failure fails too, and wait() repeats its answer.
  const WorkId late = queues.enqueue(QueueId::kCompute, "late", {a}, [&] { ran_dependent = true; });
  CHECK_THROWS_CODE(queues.wait(late), "FIRST");
  CHECK_THROWS_CODE(queues.wait(late), "FIRST");
  CHECK(!ran_dependent);
  CHECK_THROWS_CODE(queues.idle(), "FIRST");
  queues.idle();  // reported once
}

void callbacks_tell_the_end() {
  Queues queues;
  std::promise<std::exception_ptr> early, late, idle;
  std::promise<void> gate;
  const WorkId a = queues.enqueue(QueueId::kCompute, "a", {}, [&] {
    gate.get_future().wait();
    fail_with("FAILED");
  });
  queues.on_done(a, [&](std::exception_ptr error) { early.set_value(error); });
  queues.on_idle([&](std::exception_ptr error) { idle.set_value(error); });
  gate.set_value();
  CHECK(code_of(early.get_future().get()) == "FAILED");
  CHECK(code_of(idle.get_future().get()) == "FAILED");
  queues.on_done(a, [&](std::exception_ptr error) { late.set_value(error); });
  CHECK(code_of(late.get_future().get()) == "FAILED");
}

void work_is_freed_before_its_end_is_told() {
  Queues queues;
  auto held = std::make_shared<int>(1);
  std::weak_ptr<int> watch = held;
  const WorkId work =
      queues.enqueue(QueueId::kCompute, "hold", {}, [held = std::move(held)] { (void)*held; });
  queues.wait(work);
  CHECK(watch.expired());
}

void refuses_unknown_works() {
  Queues queues;
  CHECK_THROWS_CODE(queues.enqueue(QueueId::kCompute, "a", {7}, [] {}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(queues.wait(7), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(queues.on_done(0, [](std::exception_ptr) {}), "INVALID_ARGUMENT");
}

void traces_while_asked() {
  Queues queues;
  queues.wait(queues.enqueue(QueueId::kCompute, "before", {}, [] {}));
  queues.set_tracing(true);
  const WorkId a = queues.enqueue(QueueId::kCompute, "a", {}, [] {});
  const WorkId b = queues.enqueue(QueueId::kComm, "b", {a}, [] {});
  queues.wait(b);
  const auto records = queues.take_records();
  CHECK(records.size() == 2);
  CHECK(records[0].work == a && records[0].name == "a" && records[0].queue == QueueId::kCompute);
  CHECK(records[1].work == b && records[1].queue == QueueId::kComm);
  for (const auto& record : records)
    CHECK(record.enqueued_ns <= record.start_ns && record.start_ns <= record.end_ns);
  CHECK(records[0].end_ns <= records[1].start_ns);
  CHECK(queues.take_records().empty());

  // A wait for external works alone is on record, before the work.
  std::promise<void> wanted;
  const ExternalWork gate = queues.external("gate", [&] { wanted.set_value(); });
  const WorkId behind = queues.enqueue(QueueId::kCompute, "behind", {b, gate.id}, [] {});
  wanted.get_future().wait();
  gate.end(nullptr);
  queues.wait(behind);
  queues.wait(queues.enqueue(QueueId::kCompute, "later", {gate.id}, [] {}));
  const auto waited = queues.take_records();
  CHECK(waited.size() == 3);
  CHECK(waited[0].work == behind && waited[0].name == "wait for gate");
  CHECK(waited[0].queue == QueueId::kCompute && waited[0].end_ns <= waited[1].start_ns);
  CHECK(waited[1].name == "behind" && waited[2].name == "later");
}

void closing_fails_what_has_not_started() {
  Queues queues;
  std::promise<void> started, gate;
  std::promise<std::exception_ptr> ended;
  std::atomic<bool> ran = false;
  queues.enqueue(QueueId::kCompute, "running", {}, [&] {
    started.set_value();
    gate.get_future().wait();
  });
  const WorkId pending = queues.enqueue(QueueId::kCompute, "pending", {}, [&] { ran = true; });
  queues.on_done(pending, [&](std::exception_ptr error) { ended.set_value(error); });
  started.get_future().wait();
  auto closing = std::async(std::launch::async, [&] { queues.close(); });
  // Nothing may be enqueued from some moment of close() on; then what runs may end.
  for (bool open = true; open;) try {
      queues.enqueue(QueueId::kCompute, "late", {}, [] {});
    } catch (const EngineError& error) {
      CHECK(error.code() == "DISPOSED");
      open = false;
    }
  gate.set_value();
  closing.wait();
  CHECK(code_of(ended.get_future().get()) == "DISPOSED");
  CHECK(!ran);
  queues.close();
}

}  // namespace

int main() {
  runs_in_order();
  waits_for_dependencies_across_queues();
  external_works_end_when_told();
  failure_reaches_every_dependent_and_nothing_else();
  callbacks_tell_the_end();
  work_is_freed_before_its_end_is_told();
  refuses_unknown_works();
  traces_while_asked();
  closing_fails_what_has_not_started();
  return testing::summary();
}
