// What the processor can add and multiply at most: fused multiply-adds that touch registers only.
// fma THREADS FLOPS; answers `run` with the seconds that FLOPS (multiplications and additions, over
// all threads) take.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr size_t kLanes = 16;
#elif defined(__AVX__)
constexpr size_t kLanes = 8;
#else
constexpr size_t kLanes = 4;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));

// As many independent sums as hide the latency of two units: 4 or 5 cycles each.
constexpr size_t kSums = 12;

// Each sum approaches b/(1 − a). No step can be left out or merged with another: sums of floating
// point numbers have an order.
float burn(size_t rounds) {
  // Starts that differ: equal sums would be one.
  Vector s0 = Vector{} + 0.f, s1 = s0 + 1, s2 = s0 + 2, s3 = s0 + 3, s4 = s0 + 4, s5 = s0 + 5;
  Vector s6 = s0 + 6, s7 = s0 + 7, s8 = s0 + 8, s9 = s0 + 9, s10 = s0 + 10, s11 = s0 + 11;
  const Vector a = Vector{} + 0.9999f, b = Vector{} + 1e-6f;
  for (size_t i = 0; i < rounds; ++i) {
    s0 = a * s0 + b, s1 = a * s1 + b, s2 = a * s2 + b, s3 = a * s3 + b;
    s4 = a * s4 + b, s5 = a * s5 + b, s6 = a * s6 + b, s7 = a * s7 + b;
    s8 = a * s8 + b, s9 = a * s9 + b, s10 = a * s10 + b, s11 = a * s11 + b;
  }
  const Vector total =
      ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + ((s8 + s9) + (s10 + s11));
  return total[0];
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const size_t threads = std::strtoull(argv[1], nullptr, 10);
  const double flops = std::strtod(argv[2], nullptr);
  const auto rounds = static_cast<size_t>(flops / (2.0 * kLanes * kSums * threads));
  std::vector<float> results(threads);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; ++t)
      others.emplace_back([&results, t, rounds] { results[t] = burn(rounds); });
    results[0] = burn(rounds);
    for (std::thread& other : others) other.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    // The results are looked at, so that they are computed.
    bool computed = true;
    for (float result : results) computed = computed && result > 0;
    std::cout << (computed ? seconds.count() : -1) << std::endl;
  }
}
