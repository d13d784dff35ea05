// The transport by MPI, which one thread calls at a time: who waits for a message looks for it
// itself, since waking another thread to do so would take longer than a small message does; without
// a pause at first, then with longer and longer ones. While nobody waits a thread of its own looks,
// which sleeps in between.
#pragma once
#include <string>

#include "comm/transport.h"

namespace dsjs {

class MpiTransport : public Transport {
 public:
  // MPI as it was started in this process, from the module at this path (addon/mpi). Once a
  // process; later calls give the same. Throws MPI_NOT_BUILT, COMM_TRANSPORT.
  static std::shared_ptr<MpiTransport> open(const std::string& module);

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // The lowest rank of this rank's machine.
  virtual int host_leader() const = 0;
  // Every rank's `own`, of one size, in rank order. All ranks call it alike; it cannot be ended.
  virtual std::vector<char> gather(const std::vector<char>& own) = 0;
  // From any thread: MPI is not called any more, whatever waits for it throws this, and the process
  // ends without waiting for the other ranks.
  virtual void stop(const char* code, const std::string& why) = 0;
  // The MPI in words, such as "Open MPI v4.1.4".
  virtual std::string library() const = 0;
};

}  // namespace dsjs
