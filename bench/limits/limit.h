// The frame of a limit of arithmetic: PROGRAM THREADS; answers `run` with the seconds of one pass
// on each of so many threads.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

inline int serve_limit(int argc, char** argv, void (*pass)()) {
  if (argc != 2) return 2;
  const int threads = std::atoi(argv[1]);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    // All begin at once: a thread that is only being started is no share of the processor.
    std::atomic<int> started{0};
    const auto meet = [&] {
      for (started.fetch_add(1); started.load() < threads;) {
      }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t)
      others.emplace_back([&] {
        meet();
        pass();
      });
    meet();
    const auto start = std::chrono::steady_clock::now();
    pass();
    for (std::thread& other : others) other.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << seconds.count() << std::endl;
  }
  return 0;
}
