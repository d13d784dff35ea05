// OpenBLAS's product of fp32 matrices: gemm_openblas THREADS. Answers `TRANS M N K REPEAT` (TRANS:
// nn, nt or tn) with the seconds of one product. The library is looked up when it starts.
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const float* a, int lda, const float* b, int ldb, float beta, float* c,
                       int ldc);
constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  // Read by the library when it is loaded.
  setenv("OPENBLAS_NUM_THREADS", argv[1], 1);
  void* library = dlopen("libopenblas.so.0", RTLD_NOW);
  const auto sgemm = library ? reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm")) : nullptr;
  if (!sgemm) {
    std::cerr << "libopenblas.so.0 is not installed (apt-get install libopenblas0-pthread)\n";
    return 1;
  }
  std::cout << "ready" << std::endl;
  std::minstd_rand random;
  std::string request;
  for (std::string line; std::getline(std::cin, line);) {
    std::string trans;
    int m, n, k, repeat;
    std::istringstream(line) >> trans >> m >> n >> k >> repeat;
    static std::vector<float> a, b, c;
    a.resize(size_t(m) * k);
    b.resize(size_t(k) * n);
    c.resize(size_t(m) * n);
    if (request != line) {
      request = line;
      std::uniform_real_distribution<float> uniform(-1, 1);
      for (auto* operand : {&a, &b})
        for (float& value : *operand) value = uniform(random);
    }
    const bool ta = trans[0] == 't', tb = trans[1] == 't';
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeat; ++i)
      sgemm(kRowMajor, ta ? kTransposed : kPlain, tb ? kTransposed : kPlain, m, n, k, 1, a.data(),
            ta ? m : k, b.data(), tb ? k : n, 0, c.data(), n);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << seconds.count() / repeat << std::endl;
  }
}
