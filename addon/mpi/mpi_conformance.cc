// The suite of every communicator over real MPI: started by mpirun, each process one rank.
// Arguments: the module, and how many consecutive ranks make a host.
#include <cstdlib>
#include <numeric>

#include "comm/conformance.h"
#include "comm/mpi_run.h"

using namespace dsjs;
using namespace dsjs::conformance;

int main(int, char** words) {
  MpiOptions options;
  options.module = words[1];
  options.identity = "the same";
  options.ranks_a_host = std::atoi(words[2]);
  const auto run = open_mpi_run(options);
  const int all = static_cast<int>(run->places.size());
  std::unique_ptr<Communicator> world = make_hosts_group(run, 60'000);
  bool leaving = false;
  const Stage stage{[&](int ranks, const Rank& body, double hang_timeout_ms) {
                      if (ranks > all) return;
                      // A communicator of the run with the test's patience, and of it the first
                      // `ranks`.
                      auto patient = make_hosts_group(run, hang_timeout_ms);
                      auto part = patient->split(patient->rank() < ranks ? 0 : -1, patient->rank());
                      if (part) try {
                          body(*part);
                        } catch (const EngineError& error) {
                          CHECK_MESSAGE(false, error.code() + ": " + error.what());
                        }
                      part.reset();
                      if (!leaving) world->barrier();
                    },
                    [&](int ranks) {
                      std::vector<int> hosts;
                      for (int rank = 0; rank < ranks; ++rank)
                        hosts.push_back(run->places[rank].host);
                      return hosts;
                    }};
  run_suite(stage, {2, 3, 4});
  leaving = true;
  test_leave(stage);
  return dsjs::testing::summary();
}
