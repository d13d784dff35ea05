// All-reduce of hosts_group.h, whose head says what travels.
#include <algorithm>
#include <utility>

#include "comm/hosts_timing.h"
#include "comm/reduce.h"
#include "comm/slice.h"

namespace dsjs {

// Of the slice of a window that is this lane's: what other hosts send of it to be added here, and
// the sums that come back.
struct HostsGroup::Window {
  char* data;  // of all lanes
  size_t count;
  bool adds_all;              // every host; else each adds its part, and returns it
  std::vector<Shard> slices;  // of the lanes of this host
  char* own;
  std::vector<const void*> sources;  // by host
  std::vector<Incoming> parts_in, sums_in;
  std::unique_ptr<Exchange> parts, sums;
};

namespace {

// What `host` adds up of a slice.
Slice part_of(size_t count, int hosts, int host, bool adds_all) {
  return adds_all ? Slice{0, count} : slice(count, hosts, host);
}

// Appends the messages that carry so many bytes.
template <class Message, class Data>
size_t cut_into(size_t most, std::vector<Message>& messages, int peer, Data* data, size_t bytes) {
  const size_t before = messages.size();
  for (size_t begin = 0; begin < bytes; begin += most)
    messages.push_back({peer, data + begin, std::min(most, bytes - begin)});
  return messages.size() - before;
}

}  // namespace

void HostsGroup::all_reduce(void* data, size_t count, DType type, ReduceOp op) {
  const size_t bytes = count * size_of(type);
  timed(Operation::kAllReduce, bytes, [&] {
    const auto detail = static_cast<uint64_t>(op);
    if (bytes <= small_sum_bytes()) {
      Deposit deposit = of_host(data, count, type, op);
      deposit.into = data;
      meet(Operation::kAllReduce, type, count, detail, deposit);
      return;
    }
    if (bytes <= kWindowBytes) return reduce_ahead(static_cast<char*>(data), count, type, op);
    call_.lanes = lane_choice_.next(bytes);
    const int lanes = meet(Operation::kAllReduce, type, count, detail, {}).lanes;
    // Everybody has come: how long others were late is not counted.
    const uint64_t start = monotonic_ns();
    reduce_large(static_cast<char*>(data), count, type, op, lanes);
    if (me_ == 0) lane_choice_.took(bytes, lanes, monotonic_ns() - start);
  });
}

// One window of one lane, which is on its way before it is known that all ranks call the same:
// whatever another one calls, there is room for its messages.
void HostsGroup::reduce_ahead(char* data, size_t count, DType type, ReduceOp op) {
  Window window = make_window(data, count, 1);
  window.adds_all = hosts() == 2;
  char* const room = scratch(window_room());
  meet(Operation::kAllReduce, type, count, static_cast<uint64_t>(op), {},
       [&] { begin_window(window, type, op, room); });
  add_window(window, type, op);
  end_window(window, type);
}

// Of a window's parts, each in whole messages.
size_t HostsGroup::window_room() const {
  return (kWindowBytes / kMessageBytes + 1 + static_cast<size_t>(hosts())) * kMessageBytes;
}

HostsGroup::Window HostsGroup::make_window(char* data, size_t count, int used) const {
  Window window{};
  window.data = data;
  window.count = count;
  for (int lane = 0; lane < lanes(host_); ++lane) {
    const Slice part = lane < used ? slice(count, used, lane) : Slice{0, 0};
    window.slices.push_back({part.begin, part.count()});
  }
  return window;
}

// In each turn a window begins, an earlier one is added, and one before that is finished, so that
// there is always something on the wire. So many turns lie between: a link carries both directions
// unevenly for a while, and the one that is ahead goes on.
void HostsGroup::reduce_large(char* data, size_t count, DType type, ReduceOp op, int used) {
  constexpr size_t kAhead = kWindowsAhead;
  const size_t element = size_of(type);
  const size_t step = kWindowBytes * static_cast<size_t>(used) / element;
  const size_t windows = (count + step - 1) / step;
  const size_t room = window_room();
  const size_t rooms = std::min(windows, kAhead + 1);
  char* const memory = scratch(rooms * room);
  std::vector<Window> under_way(std::min(windows, 2 * kAhead + 1));
  const auto window = [&](size_t index) -> Window& { return under_way[index % under_way.size()]; };
  for (size_t turn = 0; turn < windows + 2 * kAhead; ++turn) {
    if (turn < windows) {
      window(turn) =
          make_window(data + turn * step * element, std::min(step, count - turn * step), used);
      window(turn).adds_all = hosts() == 2 && windows > kAhead;
      begin_window(window(turn), type, op, memory + turn % rooms * room);
    }
    if (turn >= kAhead && turn - kAhead < windows) add_window(window(turn - kAhead), type, op);
    if (turn >= 2 * kAhead) end_window(window(turn - 2 * kAhead), type);
  }
}

void HostsGroup::begin_window(Window& window, DType type, ReduceOp op, char* room) {
  const size_t element = size_of(type);
  const Shard own = window.slices[static_cast<size_t>(lane_)];
  window.own = window.data + own.offset * element;
  // In place: what a rank writes, no other rank of its host reads.
  if (lanes(host_) > 1 && op == ReduceOp::kSum)
    local_->reduce_scatter(window.data, window.count, type, window.slices, window.own, type, false);
  else if (lanes(host_) > 1)
    local_->all_reduce(window.data, window.count, type, op);
  if (own.count == 0) return;

  const Slice added = part_of(own.count, hosts(), host_, window.adds_all);
  std::vector<Outgoing> outgoing;
  for (int host = 0; host < hosts(); ++host) {
    if (host == host_) {
      window.sources.push_back(window.own + added.begin * element);
      continue;
    }
    const int peer = member_at(host, lane_);
    const Slice theirs = part_of(own.count, hosts(), host, window.adds_all);
    cut_into(kMessageBytes, outgoing, peer, window.own + theirs.begin * element,
             theirs.count() * element);
    window.sources.push_back(room);
    const size_t messages =
        cut_into(kMessageBytes, window.parts_in, peer, room, added.count() * element);
    if (messages > 0) window.parts_in.back().bytes = kMessageBytes;
    room += messages * kMessageBytes;
  }
  window.parts = start(kData, outgoing, window.parts_in);
}

void HostsGroup::add_window(Window& window, DType type, ReduceOp op) {
  const size_t element = size_of(type), count = window.slices[static_cast<size_t>(lane_)].count;
  if (count == 0) return;
  wait(*window.parts, window.parts_in);
  const Slice added = part_of(count, hosts(), host_, window.adds_all);
  char* sum = window.own + added.begin * element;
  reduce_arrays(window.sources, {sum}, added.count(), type, op);
  if (window.adds_all) return;
  std::vector<Outgoing> outgoing;
  for (int host = 0; host < hosts(); ++host) {
    if (host == host_) continue;
    const int peer = member_at(host, lane_);
    const Slice theirs = part_of(count, hosts(), host, window.adds_all);
    cut_into(kMessageBytes, outgoing, peer, sum, added.count() * element);
    cut_into(kMessageBytes, window.sums_in, peer, window.own + theirs.begin * element,
             theirs.count() * element);
  }
  window.sums = start(kData, outgoing, window.sums_in);
}

void HostsGroup::end_window(Window& window, DType type) {
  if (window.sums) wait(*window.sums, window.sums_in);
  if (lanes(host_) > 1) local_->all_gather(window.data, window.count, type, window.slices);
}

}  // namespace dsjs
