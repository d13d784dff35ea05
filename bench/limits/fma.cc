// The most multiplications and additions that the cores can do: vectors that never leave registers.
// fma THREADS; answers `run` with the seconds of one pass of 2³¹ operations a thread.
#include <cstdint>

#include "limit.h"

#if defined(__AVX512F__)
constexpr int kLanes = 16, kChains = 24;
#elif defined(__AVX__)
constexpr int kLanes = 8, kChains = 12;
#else
constexpr int kLanes = 4, kChains = 12;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));

// Independent chains, enough to hide the latency. The empty assembly keeps each step.
void pass() {
  constexpr int64_t kOperations = int64_t{1} << 31;
  Vector sum[kChains] = {}, factor = Vector{} + 0.999f, term = Vector{} + 0.5f;
  for (int64_t done = 0; done < kOperations; done += 2 * kLanes * kChains)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {
      sum[i] = sum[i] * factor + term;
#if defined(__x86_64__)
      asm volatile("" : "+v"(sum[i]));
#else
      asm volatile("" : "+w"(sum[i]));
#endif
    }
}

int main(int argc, char** argv) { return serve_limit(argc, argv, pass); }
