// A rank's connection to the launcher of a run over several machines: a sign of life from a thread
// of its own, the first error, the end; and from the launcher the order to give up, and who has
// left. Small lines of text over TCP; the data of training never go this way.
#pragma once
#include <string>

namespace dsjs {

struct LinkOptions {
  std::string address;
  int port;
  std::string hello;  // the first line
  // Silence of the launcher after which this rank counts as cut off.
  double patience_ms;
};

// Once a process. When the launcher ends, so does this process, at once. Throws LAUNCHER_GONE when
// it cannot be reached, INVALID_STATE the second time.
void open_link(const LinkOptions& options);

// Sends a line before it returns, if the connection still holds.
void tell_launcher(const std::string& line);

}  // namespace dsjs
