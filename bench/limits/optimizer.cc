// The memory traffic of AdamW and as little arithmetic as its answer can depend on: reads four
// arrays, writes three of them. optimizer ELEMENTS THREADS; answers `run` with the seconds of one
// pass.
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

// Two MiB pages, as the engine asks for.
float* allocate(size_t count) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t bytes = (count * sizeof(float) + kHuge - 1) / kHuge * kHuge;
  void* memory = std::aligned_alloc(kHuge, bytes);
  if (!memory) std::exit(1);
  madvise(memory, bytes, MADV_HUGEPAGE);
  float* values = static_cast<float*>(memory);
  for (size_t i = 0; i < count; ++i) values[i] = 1e-3f;
  return values;
}

void pass(float* __restrict p, const float* __restrict g, float* __restrict m, float* __restrict v,
          size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    m[i] += g[i];
    v[i] -= g[i];
    p[i] += m[i] - v[i];
  }
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const size_t count = std::strtoull(argv[1], nullptr, 10);
  const size_t threads = std::strtoull(argv[2], nullptr, 10);
  float *p = allocate(count), *g = allocate(count), *m = allocate(count), *v = allocate(count);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; ++t)
      others.emplace_back(pass, p, g, m, v, count * t / threads, count * (t + 1) / threads);
    pass(p, g, m, v, 0, count / threads);
    for (std::thread& other : others) other.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << seconds.count() << std::endl;
  }
}
