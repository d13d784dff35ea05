// The end of a run over several machines, as this process has learnt of it.
#pragma once
#include <functional>
#include <string>

namespace dsjs {

// Every call that waits, or will, throws COMM_ABORTED with this message. The first one counts.
// `rank` is the one to blame, -1 if none.
void abort_run(int rank, const std::string& message);

// `act` is called once, from the thread that aborts, or at once if that has happened.
void at_abort(std::function<void(int rank, const std::string& message)> act);

}  // namespace dsjs
