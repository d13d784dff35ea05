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

// A rank has ended by itself: who has not met it yet never will.
void note_left(int rank, const std::string& reason);

// `act` is called for each, from the thread that hears of it, and at once for those known by now.
void at_left(std::function<void(int rank, const std::string& reason)> act);

}  // namespace dsjs
