// The meeting with which a collective of hosts_group.h begins.
#include <algorithm>
#include <cstring>

#include "comm/hosts_group.h"
#include "core/error.h"

namespace dsjs {

HostsGroup::Deposit HostsGroup::of_members(const void* own, size_t bytes) {
  return {bytes, false, [this, own, bytes](char* part) {
            std::memcpy(part + static_cast<size_t>(lane_) * bytes, own, bytes);
            gather_in_host(part, bytes);
          }};
}

HostsGroup::Deposit HostsGroup::sum_of_hosts(const void* own, size_t count, DType type,
                                             ReduceOp op) {
  return {count * size_of(type), true, [this, own, count, type, op](char* part) {
            std::memcpy(part, own, count * size_of(type));
            if (lanes(host_) > 1) local_->all_reduce(part, count, type, op);
          }};
}

void HostsGroup::gather_in_host(void* all, size_t bytes) {
  if (lanes(host_) == 1) return;
  std::vector<Shard> shards;
  for (size_t lane = 0; lane < hosts_[static_cast<size_t>(host_)].size(); ++lane)
    shards.push_back({lane * bytes, bytes});
  local_->all_gather(all, shards.size() * bytes, DType::kUint8, shards);
}

HostsGroup::Meeting HostsGroup::meet(Operation operation, DType type, uint64_t count,
                                     uint64_t detail, const Deposit& deposit,
                                     const std::function<void()>& ahead) {
  if (failure_) std::rethrow_exception(failure_);
  message_peer_ = -1;
  call_.descriptor = {
      ++sequence_, static_cast<int32_t>(operation), static_cast<int32_t>(type), count, detail, -1};
  check_ended();
  std::vector<Call> ours(static_cast<size_t>(lanes(host_)));
  ours[static_cast<size_t>(lane_)] = call_;
  // The first wait is for who is late; later ones are for a rank that waits for another host's, and
  // it shall be the one to say so.
  local_->set_hang_timeout_ms(hang_timeout_ms_);
  gather_in_host(ours.data(), sizeof(Call));
  local_->set_hang_timeout_ms(3 * hang_timeout_ms_);
  const bool alike = std::all_of(ours.begin(), ours.end(), [&](const Call& call) {
    return difference(0, call_.descriptor, 0, call.descriptor).empty();
  });

  Meeting meeting;
  size_t end = 0;
  for (int host = 0; host < hosts(); ++host) {
    meeting.begin.push_back(end);
    meeting.part.push_back(end + static_cast<size_t>(lanes(host)) * sizeof(Call));
    end = meeting.part.back() + (alike ? part_bytes(deposit, host) : 0);
  }
  meeting.begin.push_back(end);
  meeting.bytes.resize(end);
  std::memcpy(meeting.bytes.data() + meeting.begin[static_cast<size_t>(host_)], ours.data(),
              ours.size() * sizeof(Call));
  if (alike && deposit.bytes > 0) deposit.write(meeting.part_of(host_));
  if (alike && ahead) ahead();
  if (lane_ == 0) gather_from_hosts(meeting);
  if (lanes(host_) > 1) local_->broadcast(meeting.bytes.data(), meeting.bytes.size(), 0);
  compare(meeting);
  return meeting;
}

void HostsGroup::gather_from_hosts(Meeting& meeting) {
  std::vector<std::vector<char>> theirs;
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  std::vector<size_t> from;
  const auto own = static_cast<size_t>(host_);
  for (int host = 0; host < hosts(); ++host) {
    if (host == host_) continue;
    // Room for any call, so that one that differs can be told.
    theirs.emplace_back(opening_bytes(host));
    outgoing.push_back({member_at(host, 0), meeting.bytes.data() + meeting.begin[own],
                        meeting.begin[own + 1] - meeting.begin[own]});
    incoming.push_back({member_at(host, 0), theirs.back().data(), theirs.back().size()});
    from.push_back(static_cast<size_t>(host));
  }
  const std::vector<size_t> received = exchange(kOpening, outgoing, incoming);
  for (size_t index = 0; index < from.size(); ++index) {
    const size_t host = from[index], begin = meeting.begin[host];
    const size_t calls = meeting.part[host] - begin, whole = meeting.begin[host + 1] - begin;
    char* place = meeting.bytes.data() + begin;
    // One that is shorter or longer belongs to another call, of which only the calls count; and a
    // message that is opened has one call only: that of the rank that sent it.
    if (received[index] == whole)
      std::memcpy(place, theirs[index].data(), whole);
    else if (received[index] >= calls)
      std::memcpy(place, theirs[index].data(), calls);
    else
      for (size_t at = 0; at < calls; at += sizeof(Call))
        std::memcpy(place + at, theirs[index].data(), sizeof(Call));
  }
}

HostsGroup::Call HostsGroup::call_of(const Meeting& meeting, int member) const {
  Call call;
  std::memcpy(&call,
              meeting.bytes.data() + meeting.begin[static_cast<size_t>(host_of_[member])] +
                  static_cast<size_t>(lane_of_[member]) * sizeof(Call),
              sizeof call);
  return call;
}

// Every member compares with member 0, so that all of them name the same two ranks.
void HostsGroup::compare(const Meeting& meeting) const {
  const Descriptor first = call_of(meeting, 0).descriptor;
  for (int other = 1; other < size(); ++other) {
    const std::string what =
        difference(run_rank(0), first, run_rank(other), call_of(meeting, other).descriptor);
    if (!what.empty()) fail("COMM_MISMATCH", what, me_ == 0 ? other : 0);
  }
}

}  // namespace dsjs
