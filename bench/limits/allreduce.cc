// The memory traffic of an all-reduce over two ranks whose arrays both can reach: each of two
// threads reads its half of both arrays and writes the sum into both. Answers `shared BYTES` with
// the seconds of one, the mean of as many as the ranks do.
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

// Two MiB pages, as the engine asks for.
float* allocate(size_t count) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t bytes = (count * sizeof(float) + kHuge - 1) / kHuge * kHuge;
  void* memory = std::aligned_alloc(kHuge, bytes);
  if (!memory) std::exit(1);
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::fill_n(static_cast<float*>(memory), count, 0.0f);
  return static_cast<float*>(memory);
}

void pass(float* __restrict a, float* __restrict b, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const float sum = a[i] + b[i];
    a[i] = sum;
    b[i] = sum;
  }
}

int main() {
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::string place;
    size_t bytes = 0;
    std::istringstream(line) >> place >> bytes;
    const size_t count = bytes / sizeof(float);
    const size_t calls = std::clamp<size_t>((size_t{64} << 20) / bytes, 1, 2000);
    float *a = allocate(count), *b = allocate(count);
    std::barrier meet(2);
    std::chrono::duration<double> seconds{};
    const auto half = [&](size_t begin, size_t end, bool timing) {
      meet.arrive_and_wait();
      const auto start = std::chrono::steady_clock::now();
      for (size_t call = 0; call < calls; ++call) {
        pass(a, b, begin, end);
        meet.arrive_and_wait();
      }
      if (timing) seconds = std::chrono::steady_clock::now() - start;
    };
    std::thread other(half, count / 2, count, false);
    half(0, count / 2, true);
    other.join();
    std::cout << seconds.count() / static_cast<double>(calls) << std::endl;
    std::free(a);
    std::free(b);
  }
}
