// The meeting with which a collective of hosts_group.h begins.
#include <algorithm>
#include <cstring>

#include "comm/hosts_group.h"
#include "comm/reduce.h"
#include "core/error.h"

namespace dsjs {

// Members of a host confer, its first lane hears from the others', and tells its own.
HostsGroup::Meeting HostsGroup::meet(Operation operation, DType type, uint64_t count,
                                     uint64_t detail, const Deposit& deposit,
                                     const std::function<void()>& ahead) {
  static_assert(sizeof(Call) == Channel::kNoteBytes && sizeof(Verdict) == Channel::kNoteBytes);
  static_assert(kSmallBytes <= Channel::kSmallBytes && kSmallSumBytes <= Channel::kSmallBytes);
  if (failure_) std::rethrow_exception(failure_);
  message_peer_ = -1;
  call_.descriptor = {
      ++sequence_, static_cast<int32_t>(operation), static_cast<int32_t>(type), count, detail, -1};
  check_ended();
  bool alike = true;
  if (lanes(host_) > 1) {
    // The first wait is for who is late; later ones are for a rank that waits for another host's,
    // and it shall be the one to say so.
    local_->set_hang_timeout_ms(hang_timeout_ms_);
    local_->confer(call_.descriptor, &call_, deposit.own, deposit.bytes);
    local_->set_hang_timeout_ms(3 * hang_timeout_ms_);
    for (int lane = 0; lane < lanes(host_); ++lane) {
      Call call;
      std::memcpy(&call, local_->note_of(lane), sizeof call);
      alike = alike && is_same(call_.descriptor, call.descriptor);
      if (lane_ == 0)
        std::memcpy(opening(host_) + static_cast<size_t>(lane) * sizeof call, &call, sizeof call);
    }
  } else {
    std::memcpy(opening(host_), &call_, sizeof call_);
  }
  if (lane_ == 0 && alike) write_part(deposit);
  if (alike && ahead) ahead();
  return lane_ == 0 ? give(deposit, alike) : take(deposit);
}

char* HostsGroup::opening(int host) {
  if (!openings_) {
    size_t end = 0;
    for (int other = 0; other < hosts(); ++other) {
      opening_begins_.push_back(end);
      end += opening_bytes(other);
    }
    openings_ = allocate_private(end, Category::kCommunication, account_);
  }
  return static_cast<char*>(openings_->data()) + opening_begins_[static_cast<size_t>(host)];
}

void HostsGroup::write_part(const Deposit& deposit) {
  if (deposit.bytes == 0) return;
  std::vector<const void*> deposits{deposit.own};
  for (int lane = 1; lane < lanes(host_); ++lane) deposits.push_back(local_->laid_down_by(lane));
  char* target = part(host_);
  if (deposit.reduced && deposits.size() > 1) {
    const auto& [count, type, op] = *deposit.reduced;
    return reduce_arrays(deposits, {target}, count, type, op);
  }
  for (const void* one : deposits) {
    std::memcpy(target, one, deposit.bytes);
    target += deposit.bytes;
  }
}

// The first lane.
HostsGroup::Meeting HostsGroup::give(const Deposit& deposit, bool alike) {
  const size_t calls = static_cast<size_t>(lanes(host_)) * sizeof(Call);
  exchange_openings(calls + (alike ? part_bytes(deposit, host_) : 0));
  Verdict verdict{};
  verdict.differs = !all_call_the_same();
  verdict.lanes = call_of(0).lanes;
  Meeting meeting;
  meeting.lanes = verdict.lanes;
  for (int host = 0; host < hosts(); ++host) meeting.parts.push_back(part(host));
  char* told = lanes(host_) > 1 ? local_->told_data() : nullptr;
  bool too_long = false;
  if (verdict.differs == 0 && deposit.into != nullptr) {
    const auto& [count, type, op] = *deposit.reduced;
    const std::vector<const void*> sums(meeting.parts.begin(), meeting.parts.end());
    std::vector<void*> targets{deposit.into};
    if (told != nullptr) targets.push_back(told);
    reduce_arrays(sums, targets, count, type, op);
  } else if (verdict.differs == 0 && told != nullptr) {
    too_long = all_parts_bytes(deposit) > Channel::kSmallBytes;
    for (int host = 0; host < hosts() && !too_long; ++host) {
      const size_t bytes = part_bytes(deposit, host);
      if (bytes > 0) std::memcpy(told, part(host), bytes);
      told += bytes;
    }
  }
  if (lanes(host_) > 1) local_->tell(&verdict);
  if (verdict.differs != 0) fail_for_difference();
  if (too_long)
    for (int host = 0; host < hosts(); ++host)
      local_->broadcast(part(host), part_bytes(deposit, host), 0);
  return meeting;
}

// The other lanes.
HostsGroup::Meeting HostsGroup::take(const Deposit& deposit) {
  Verdict verdict;
  std::memcpy(&verdict, local_->hear(), sizeof verdict);
  if (verdict.differs != 0) fail_for_difference();
  Meeting meeting;
  meeting.lanes = verdict.lanes;
  if (deposit.into != nullptr) {
    std::memcpy(deposit.into, local_->told_data(), deposit.bytes);
    return meeting;
  }
  const bool too_long = all_parts_bytes(deposit) > Channel::kSmallBytes;
  const char* begin = local_->told_data();
  for (int host = 0; host < hosts(); ++host) {
    meeting.parts.push_back(too_long ? part(host) : begin);
    begin += part_bytes(deposit, host);
    if (too_long) local_->broadcast(part(host), part_bytes(deposit, host), 0);
  }
  return meeting;
}

void HostsGroup::exchange_openings(size_t bytes) {
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (int host = 0; host < hosts(); ++host) {
    if (host == host_) continue;
    outgoing.push_back({member_at(host, 0), opening(host_), bytes});
    // Room for any call, so that one that differs can be told.
    incoming.push_back({member_at(host, 0), opening(host), opening_bytes(host)});
  }
  const std::vector<size_t> received = exchange(kOpening, outgoing, incoming);
  size_t message = 0;
  for (int host = 0; host < hosts(); ++host) {
    if (host == host_) continue;
    // A message that is opened has one call only: that of the rank that sent it.
    const size_t calls = static_cast<size_t>(lanes(host)) * sizeof(Call);
    if (received[message++] < calls)
      for (size_t at = sizeof(Call); at < calls; at += sizeof(Call))
        std::memcpy(opening(host) + at, opening(host), sizeof(Call));
  }
}

HostsGroup::Call HostsGroup::call_of(int member) {
  Call call;
  std::memcpy(&call,
              opening(host_of_[member]) + static_cast<size_t>(lane_of_[member]) * sizeof(Call),
              sizeof call);
  return call;
}

bool HostsGroup::all_call_the_same() {
  for (int member = 0; member < size(); ++member)
    if (!is_same(call_.descriptor, call_of(member).descriptor)) return false;
  return true;
}

// Every member compares with member 0, so that all of them name the same two ranks.
void HostsGroup::fail_for_difference() {
  for (int host = 0; host < hosts() && lanes(host_) > 1; ++host)
    local_->broadcast(opening(host), static_cast<size_t>(lanes(host)) * sizeof(Call), 0);
  const Descriptor first = call_of(0).descriptor;
  for (int other = 1; other < size(); ++other) {
    const std::string what =
        difference(run_rank(0), first, run_rank(other), call_of(other).descriptor);
    if (!what.empty()) fail("COMM_MISMATCH", what, me_ == 0 ? other : 0);
  }
  throw EngineError("INTERNAL", "calls differ and are the same", "", run_->rank);
}

}  // namespace dsjs
