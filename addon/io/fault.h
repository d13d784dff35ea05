// Numbered fault points, so that a test can kill the process at each place where a write may be cut
// off: the n-th point that is passed, counted from set_fault_point, ends the process with SIGKILL.
#pragma once
#include <cstdint>

namespace dsjs::io {

// 0 = off. Returns how many points were passed since the last call, and counts from 0 again. The
// environment variable DEEPSPEED_JS_FAULT_POINT sets it when the library is loaded.
uint64_t set_fault_point(uint64_t n);

// The n-th point that is passed from now on waits until this is called again; 0 = off. So a test
// can look at what goes on while a write is under way.
void hold_fault_point(uint64_t n);

// Passes one point.
void fault_point();

}  // namespace dsjs::io
