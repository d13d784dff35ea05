// Communicators of a whole run over several machines, and such runs made of threads, for tests.
#include <numeric>

#include "comm/backends.h"
#include "comm/hosts_group.h"
#include "core/error.h"

namespace dsjs {

std::unique_ptr<Communicator> make_hosts_group(std::shared_ptr<HostsRun> run,
                                               double hang_timeout_ms) {
  const HostsRun::Place place = run->places[static_cast<size_t>(run->rank)];
  std::vector<int> lanes(static_cast<size_t>(run->world->size()));
  std::iota(lanes.begin(), lanes.end(), 0);
  const int index = run->world->join(place.lane);
  auto local = std::make_unique<Group>(std::make_unique<Channel>(
      run->world, index, index, std::move(lanes), place.lane, hang_timeout_ms));
  // All on one machine: nothing is between hosts.
  if (run->host_names.size() == 1) return local;
  const int ranks = static_cast<int>(run->places.size());
  std::vector<int> members(static_cast<size_t>(ranks));
  std::iota(members.begin(), members.end(), 0);
  const int channel = run->channel_number(run->communicators++, ranks);
  return std::make_unique<HostsGroup>(std::move(run), std::move(local), std::move(members), channel,
                                      hang_timeout_ms);
}

void tell_left(const HostsRun& run) {
  const HostsRun::Place place = run.places[static_cast<size_t>(run.rank)];
  const RankEntry& entry = run.world->control().rank(place.lane);
  Notice notice{Notice::kWholeRun, run.rank, entry.left.load(), false, {}};
  std::string(entry.reason).copy(notice.reason, sizeof notice.reason - 1);
  for (size_t rank = 0; rank < run.places.size(); ++rank)
    if (run.places[rank].host != place.host) run.transport->notify(static_cast<int>(rank), notice);
}

std::shared_ptr<HostsRun> open_inprocess_hosts(const std::string& key, int rank,
                                               const std::vector<int>& host_of) {
  auto run = std::make_shared<HostsRun>();
  run->rank = rank;
  std::vector<std::vector<int>> ranks_of;
  for (size_t other = 0; other < host_of.size(); ++other) {
    const auto host = static_cast<size_t>(host_of[other]);
    if (host >= ranks_of.size()) ranks_of.resize(host + 1);
    run->places.push_back({host_of[other], static_cast<int>(ranks_of[host].size())});
    ranks_of[host].push_back(static_cast<int>(other));
  }
  for (size_t host = 0; host < ranks_of.size(); ++host)
    run->host_names.push_back("host " + std::to_string(host));
  const auto own = static_cast<size_t>(host_of.at(static_cast<size_t>(rank)));
  run->transport = make_memory_transport(key, rank);
  run->world = World::inprocess(key + ", host " + std::to_string(own),
                                static_cast<int>(ranks_of[own].size()));
  run->world->set_numbers(ranks_of[own]);
  return run;
}

std::unique_ptr<Communicator> make_inprocess_hosts(const std::string& key, int rank,
                                                   const std::vector<int>& host_of,
                                                   double hang_timeout_ms) {
  return make_hosts_group(open_inprocess_hosts(key, rank, host_of), hang_timeout_ms);
}

}  // namespace dsjs
