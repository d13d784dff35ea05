// Messages, splitting, and why somebody does not come. hosts_meeting.cc, hosts_reduce.cc and
// hosts_collectives.cc have the rest.
#include "comm/hosts_group.h"

#include <algorithm>
#include <cstring>

#include "comm/hosts_timing.h"
#include "core/error.h"
#include "core/futex.h"

namespace dsjs {
namespace {

// How long a waiting rank goes without looking for the dead.
constexpr uint64_t kLookNs = 20'000'000;

std::string text_of(std::exception_ptr why) {
  try {
    std::rethrow_exception(why);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an unknown error";
  }
}

}  // namespace

HostsGroup::HostsGroup(std::shared_ptr<HostsRun> run, std::unique_ptr<Group> local,
                       std::vector<int> ranks, int channel, double hang_timeout_ms)
    : run_(std::move(run)),
      local_(std::move(local)),
      ranks_(std::move(ranks)),
      channel_(channel),
      hang_timeout_ms_(hang_timeout_ms),
      lane_choice_({1}) {
  std::vector<int> number_of(run_->host_names.size(), -1);
  for (int member = 0; member < size(); ++member) {
    int& host = number_of[static_cast<size_t>(run_->places[run_rank(member)].host)];
    if (host < 0) {
      host = hosts();
      hosts_.emplace_back();
    }
    host_of_.push_back(host);
    lane_of_.push_back(lanes(host));
    hosts_[static_cast<size_t>(host)].push_back(member);
    if (run_rank(member) == run_->rank) me_ = member;
  }
  host_ = host_of_[me_];
  lane_ = lane_of_[me_];
  int all = lanes(0);  // that every host has
  for (int host = 1; host < hosts(); ++host) all = std::min(all, lanes(host));
  if (run_->lanes > 0)
    lane_choice_ = LaneChoice({std::min(run_->lanes, all)});
  else if (all > 1)
    lane_choice_ = LaneChoice({all, 1});
  if (tag(kData) > run_->transport->last_tag())
    throw EngineError("LIMIT", "too many groups were made in this run", "split", run_->rank);
}

HostsGroup::~HostsGroup() {
  tell_others(false, "");
  run_->transport->board().forget(channel_);
}

void HostsGroup::tell_others(bool failed, const std::string& reason) {
  if (told_) return;
  told_ = true;
  Notice notice{channel_, run_->rank, completed_, failed, {}};
  reason.copy(notice.reason, sizeof notice.reason - 1);
  for (int member = 0; member < size(); ++member)
    if (host_of_[member] != host_) run_->transport->notify(run_rank(member), notice);
}

// A rank of this host that gave up over one of another host is not the one to name.
void HostsGroup::trace_back(const EngineError& error) const {
  if (error.code() != "COMM_PEER_LEFT") return;
  const auto gone = who_is_gone(std::vector<bool>(hosts_.size(), true));
  if (gone && gone->by_itself) fail_for(*gone);
}

void HostsGroup::withdraw(std::exception_ptr why) {
  tell_others(true, text_of(why));
  if (!failure_) failure_ = why;
  local_->withdraw(why);
}

void HostsGroup::interrupt() {
  interrupted_.store(true);
  local_->interrupt();
}

void HostsGroup::leave(const std::string& reason) {
  local_->leave(reason);
  tell_left(*run_);
  if (!failure_)
    failure_ = std::make_exception_ptr(EngineError(
        "COMM_PEER_LEFT", "this rank has left the run: " + reason, "leave", run_->rank));
}

void HostsGroup::charge(std::shared_ptr<MemoryAccount> account) {
  account_ = account;
  local_->charge(std::move(account));
}

char* HostsGroup::scratch(size_t bytes) {
  if (!scratch_ || scratch_->bytes() < bytes) {
    scratch_.reset();
    scratch_ = allocate_private(bytes, Category::kCommunication, account_);
  }
  return static_cast<char*>(scratch_->data());
}

// ---------------------------------------------------------------- messages between hosts

std::unique_ptr<Exchange> HostsGroup::start(Tag kind, std::vector<Outgoing> outgoing,
                                            std::vector<Incoming> incoming) {
  for (Outgoing& message : outgoing) message.peer = run_rank(message.peer);
  for (Incoming& message : incoming) message.peer = run_rank(message.peer);
  return run_->transport->start(tag(kind), outgoing, incoming);
}

std::vector<size_t> HostsGroup::exchange(Tag kind, const std::vector<Outgoing>& outgoing,
                                         const std::vector<Incoming>& incoming) {
  const auto running = start(kind, outgoing, incoming);
  wait(*running, incoming);
  std::vector<size_t> received;
  for (size_t index = 0; index < incoming.size(); ++index)
    received.push_back(running->received(index));
  return received;
}

void HostsGroup::wait(Exchange& exchange, const std::vector<Incoming>& incoming) {
  const uint64_t since = monotonic_ns();
  const WaitClock clock(waited_ns_);
  while (!exchange.wait(kLookNs)) look_around(exchange, incoming, since);
}

// Why does it take so long? Notices are read before the last look at the messages: who has told
// that it goes has sent all it will send.
void HostsGroup::look_around(Exchange& exchange, const std::vector<Incoming>& incoming,
                             uint64_t since_ns) {
  check_ended();
  const auto gone = who_is_gone(yet_to_come(exchange, incoming));
  if (exchange.wait(0)) return;
  const auto still = who_is_gone(yet_to_come(exchange, incoming));
  if (gone && still && gone->member == still->member) fail_for(*still);
  const uint64_t waited = monotonic_ns() - since_ns;
  // A rank that waits inside its host names the late one better: it is given the first word.
  if (static_cast<double>(waited) <= 1.25 * hang_timeout_ms_ * 1e6) return;
  for (size_t index = 0; index < incoming.size(); ++index) {
    if (exchange.arrived(index)) continue;
    const int member = incoming[index].peer;
    fail("COMM_HANG",
         "rank " + std::to_string(run_rank(member)) + " on " +
             run_->host_names[run_->places[run_rank(member)].host] + " has not come to " +
             current() + " for " + format_seconds(waited) + ": it is alive",
         member);
  }
}

std::vector<bool> HostsGroup::yet_to_come(const Exchange& exchange,
                                          const std::vector<Incoming>& incoming) const {
  std::vector<bool> hosts(hosts_.size());
  for (size_t index = 0; index < incoming.size(); ++index)
    if (!exchange.arrived(index)) hosts[static_cast<size_t>(host_of_[incoming[index].peer])] = true;
  return hosts;
}

// Before all others who has left the run, then who has closed its communicator before its part of
// the call was done, then who did so over another one's end, last who has left after that.
std::optional<HostsGroup::Gone> HostsGroup::who_is_gone(
    const std::vector<bool>& may_be_missed) const {
  const NoticeBoard& board = run_->transport->board();
  std::optional<Gone> closed, failed, followed;
  for (int member = 0; member < size(); ++member) {
    if (host_of_[member] == host_ || (message_peer_ >= 0 && member != message_peer_)) continue;
    const auto left = board.find(Notice::kWholeRun, run_rank(member));
    const auto notice = board.find(channel_, run_rank(member));
    const bool of_us = left && left->completed > static_cast<uint64_t>(local_->base());
    if (of_us && may_be_missed[static_cast<size_t>(host_of_[member])]) {
      const bool follows = notice && notice->failed != 0;
      const Gone gone{member, std::string("has left (") + left->reason + ")", !follows};
      if (!follows) return gone;
      if (!followed) followed = gone;
    }
    if (!notice || (message_peer_ < 0 && notice->completed >= sequence_)) continue;
    if (notice->failed == 0)
      closed = Gone{member, "has closed its communicator", true};
    else if (!failed)
      failed =
          Gone{member, std::string("has closed its communicator (") + notice->reason + ")", false};
  }
  return closed ? closed : failed ? failed : followed;
}

void HostsGroup::fail_for(const Gone& gone) const {
  fail("COMM_PEER_LEFT",
       "rank " + std::to_string(run_rank(gone.member)) + " " + gone.how + " while " + current() +
           " waited for it",
       gone.member);
}

void HostsGroup::check_ended() const {
  if (interrupted_.load()) fail("DISPOSED", "the engine was disposed during " + current(), -1);
  if (auto abort = run_->world->control().aborted()) fail("COMM_ABORTED", abort->message, -1);
}

std::string HostsGroup::current() const {
  const std::string name = "rank " + std::to_string(run_->rank) + " ";
  const Descriptor& call = call_.descriptor;
  if (message_peer_ < 0) return name + describe(call);
  const auto operation = static_cast<Operation>(call.operation);
  return name + operation_name(operation) +
         (operation == Operation::kSend ? " to rank " : " from rank ") +
         std::to_string(run_rank(message_peer_)) + " (" + std::to_string(call.count) + " bytes)";
}

void HostsGroup::fail(const char* code, const std::string& message, int peer) const {
  throw EngineError(code, message,
                    operation_name(static_cast<Operation>(call_.descriptor.operation)), run_->rank,
                    peer < 0 ? -1 : run_rank(peer));
}

void HostsGroup::check_member(Operation operation, int member) const {
  if (member >= 0 && member < size()) return;
  throw EngineError("INVALID_ARGUMENT",
                    "rank " + std::to_string(member) + " is not one of the " +
                        std::to_string(size()) + " of this group",
                    operation_name(operation), run_->rank);
}

template <class Body>
void HostsGroup::message(Operation operation, size_t bytes, int peer, const Body& body) {
  check_member(operation, peer);
  if (peer == me_)
    throw EngineError("INVALID_ARGUMENT", "a rank cannot exchange messages with itself",
                      operation_name(operation), run_->rank, run_->rank);
  timed(Operation(operation), bytes, [&] {
    if (failure_) std::rethrow_exception(failure_);
    body();
  });
}

void HostsGroup::open_message(Operation operation, size_t bytes, int peer) {
  message_peer_ = peer;
  call_.descriptor = {
      0, static_cast<int32_t>(operation), static_cast<int32_t>(DType::kUint8), bytes, 0, -1};
  check_ended();
  std::vector<char> answer(opening_bytes(host_of_[peer]));
  exchange(kOpening, {{peer, &call_, sizeof call_}}, {{peer, answer.data(), answer.size()}});
  Descriptor theirs;
  std::memcpy(&theirs, answer.data(), sizeof theirs);
  const bool sends = operation == Operation::kSend;
  const auto wanted = sends ? Operation::kReceive : Operation::kSend;
  if (theirs.operation != static_cast<int32_t>(wanted))
    fail("COMM_MISMATCH",
         "ranks called different things: " + current() + ", rank " +
             std::to_string(run_rank(peer)) + " " + describe(theirs),
         peer);
  if (theirs.count == bytes) return;
  const std::string us = std::to_string(run_->rank), them = std::to_string(run_rank(peer));
  const auto sizes = [](const std::string& from, uint64_t sent, const std::string& to,
                        uint64_t expected) {
    return "rank " + from + " sends " + std::to_string(sent) + " bytes, rank " + to + " receives " +
           std::to_string(expected);
  };
  fail("COMM_MISMATCH",
       sends ? sizes(us, bytes, them, theirs.count) : sizes(them, theirs.count, us, bytes), peer);
}

void HostsGroup::send(const void* data, size_t bytes, int peer) {
  message(Operation::kSend, bytes, peer, [&] {
    if (host_of_[peer] == host_) return local_->send(data, bytes, lane_of_[peer]);
    open_message(Operation::kSend, bytes, peer);
    exchange(kData, {{peer, data, bytes}}, {});
  });
}

void HostsGroup::recv(void* data, size_t bytes, int peer) {
  message(Operation::kReceive, bytes, peer, [&] {
    if (host_of_[peer] == host_) return local_->recv(data, bytes, lane_of_[peer]);
    open_message(Operation::kReceive, bytes, peer);
    exchange(kData, {}, {{peer, data, bytes}});
  });
}

// ---------------------------------------------------------------- groups

std::unique_ptr<Communicator> HostsGroup::split(int color, int key) {
  struct Wish {
    int32_t color, key, channels;
  };
  std::vector<int> group;  // members of the same color, in order
  std::unique_ptr<Communicator> made;
  std::exception_ptr failure;
  int failed = -1;  // the first member of the group that has one
  timed(Operation::kSplit, 0, [&] {
    const Wish own{color, key, run_->channels.fetch_add(1)};
    const Meeting meeting =
        meet(Operation::kSplit, DType::kUint8, sizeof own, 0, {&own, sizeof own});
    std::vector<Wish> wishes(static_cast<size_t>(size()));
    for (int member = 0; member < size(); ++member)
      std::memcpy(&wishes[static_cast<size_t>(member)], deposit_of(meeting, member, sizeof own),
                  sizeof own);
    for (int member = 0; member < size(); ++member)
      if (color >= 0 && wishes[member].color == color) group.push_back(member);
    std::stable_sort(group.begin(), group.end(),
                     [&](int a, int b) { return wishes[a].key < wishes[b].key; });

    // All members of a host split its group; a place in the new group says in which order.
    const auto place = std::find(group.begin(), group.end(), me_) - group.begin();
    try {
      auto part = local_->split(color < 0 ? -1 : color, static_cast<int>(place));
      const bool one_host = std::all_of(group.begin(), group.end(),
                                        [&](int member) { return host_of_[member] == host_; });
      if (one_host) {
        if (part) static_cast<Group&>(*part).set_hang_timeout_ms(hang_timeout_ms_);
        made = std::move(part);
      } else {
        std::vector<int> ranks;
        for (int member : group) ranks.push_back(run_rank(member));
        const int first = group.front();
        made = std::make_unique<HostsGroup>(
            run_, std::unique_ptr<Group>(static_cast<Group*>(part.release())), std::move(ranks),
            run_->channel_number(wishes[first].channels, run_rank(first)), hang_timeout_ms_);
      }
    } catch (const EngineError&) {
      failure = std::current_exception();
    }
    const int32_t has_failed = failure != nullptr;
    completed_ = sequence_;
    const Meeting outcomes = meet(Operation::kSplit, DType::kUint8, sizeof has_failed, 1,
                                  {&has_failed, sizeof has_failed});
    for (int member : group) {
      int32_t theirs;
      std::memcpy(&theirs, deposit_of(outcomes, member, sizeof theirs), sizeof theirs);
      if (theirs != 0 && failed < 0) failed = member;
    }
    completed_ = sequence_;
  });
  if (failure) std::rethrow_exception(failure);
  if (failed >= 0)
    throw EngineError("COMM_PEER_LEFT",
                      "rank " + std::to_string(run_rank(failed)) + " could not open the new group",
                      "split", run_->rank, run_rank(failed));
  return made;
}

}  // namespace dsjs
