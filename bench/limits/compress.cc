// The loops of one-bit compression over blocks of 1,024 elements, as the all-reduce walks them,
// each beside a loop with the same reads and writes and hardly any arithmetic; and such loops for
// gradients that are compressed. One thread: so they run. compress ELEMENTS RANKS; answers `pack`,
// `average`, `unpack` and the same with ` limit` behind it, and `int8 limit`, `topk limit`,
// `powersgd limit`, with the seconds of one pass.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define DSJS_ISA avx512
#define DSJS_ISA_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
#define DSJS_ISA avx2
#define DSJS_ISA_AVX2
#elif defined(__ARM_NEON)
#define DSJS_ISA neon
#define DSJS_ISA_NEON
#else
#define DSJS_ISA portable
#endif
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "compress/sign_simd.cc"

namespace {

constexpr size_t kBlock = 1024;
constexpr size_t kBlockBytes = kBlock / 8;

// Two MiB pages, as the engine asks for.
template <class T>
T* allocate(size_t count) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t bytes = (count * sizeof(T) + kHuge - 1) / kHuge * kHuge;
  void* memory = std::aligned_alloc(kHuge, bytes);
  if (!memory) std::exit(1);
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 0, bytes);
  return static_cast<T*>(memory);
}

struct Arrays {
  size_t blocks, ranks;
  float *x, *error;
  uint8_t* sent;
  std::vector<uint8_t*> received;
  // Of compressed gradients: a byte an element, and what reads must come to.
  uint8_t* values;
  float* sums;
};

float scale_of(double squares) {
  return static_cast<float>(std::sqrt(squares / static_cast<double>(kBlock)));
}

void pack(const Arrays& a) {
  const dsjs::SignKernels& kernels = dsjs::DSJS_ISA::sign;
  for (size_t b = 0; b < a.blocks; ++b) {
    float* error = a.error + b * kBlock;
    const float scale = scale_of(kernels.compensate(a.x + b * kBlock, error, kBlock));
    kernels.pack(error, scale, a.sent + b * kBlockBytes, kBlock);
  }
}

void pack_limit(const Arrays& a) {
  for (size_t b = 0; b < a.blocks; ++b) {
    const float* __restrict x = a.x + b * kBlock;
    float* __restrict error = a.error + b * kBlock;
    for (size_t i = 0; i < kBlock; ++i) error[i] = x[i] - error[i];
    std::memset(a.sent + b * kBlockBytes, static_cast<int>(b), kBlockBytes);
  }
}

void average(const Arrays& a) {
  const dsjs::SignKernels& kernels = dsjs::DSJS_ISA::sign;
  std::vector<const uint8_t*> bits(a.ranks);
  const std::vector<float> scales(a.ranks, 0.5f);
  for (size_t b = 0; b < a.blocks; ++b) {
    for (size_t r = 0; r < a.ranks; ++r) bits[r] = a.received[r] + b * kBlockBytes;
    float* error = a.error + b * kBlock;
    const float scale =
        scale_of(kernels.average(bits.data(), scales.data(), a.ranks, error, kBlock));
    kernels.pack(error, scale, a.sent + b * kBlockBytes, kBlock);
  }
}

void average_limit(const Arrays& a) {
  for (size_t b = 0; b < a.blocks; ++b) {
    float* __restrict error = a.error + b * kBlock;
    for (size_t i = 0; i < kBlock; ++i) error[i] = 1.0f - error[i];
    uint8_t* __restrict sent = a.sent + b * kBlockBytes;
    std::memset(sent, 0, kBlockBytes);
    for (size_t r = 0; r < a.ranks; ++r) {
      const uint8_t* __restrict from = a.received[r] + b * kBlockBytes;
      for (size_t i = 0; i < kBlockBytes; ++i) sent[i] ^= from[i];
    }
  }
}

void unpack(const Arrays& a) {
  for (size_t b = 0; b < a.blocks; ++b)
    dsjs::DSJS_ISA::sign.unpack(a.sent + b * kBlockBytes, 0.5f, a.x + b * kBlock, kBlock);
}

void unpack_limit(const Arrays& a) {
  for (size_t b = 0; b < a.blocks; ++b) {
    const uint8_t* __restrict sent = a.sent + b * kBlockBytes;
    float* __restrict x = a.x + b * kBlock;
    float sum = 0;
    for (size_t i = 0; i < kBlockBytes; i += 8) sum += sent[i];
    for (size_t i = 0; i < kBlock; ++i) x[i] = sum;
  }
}

// The passes of int8_compressor.cc: blocks that stay in the nearest cache while they are looked at.
void int8_limit(const Arrays& a) {
  const size_t count = a.blocks * kBlock;
  float* __restrict x = a.x;
  float* __restrict error = a.error;
  uint8_t* __restrict q = a.values;
  uint8_t* __restrict other = a.values + count;
  for (size_t i = 0; i < count; ++i) {
    x[i] = x[i] - error[i];
    q[i] = static_cast<uint8_t>(i);
  }
  std::memcpy(other, q, count);
  for (size_t i = 0; i < count; ++i) error[i] = x[i] - static_cast<float>(q[i]);
  for (size_t i = 0; i < count; ++i) {
    error[i] = error[i] - static_cast<float>(other[i]);
    q[i] = other[i];
  }
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>(q[i]);
}

void look_at(const float* __restrict x, float* __restrict sums, size_t count) {
  for (size_t i = 0; i < count; i += kBlock)
    for (size_t j = 0; j < kBlock; ++j) sums[j] = sums[j] < x[i + j] ? sums[j] : x[i + j];
}

// The passes of top_k_compressor.cc.
void topk_limit(const Arrays& a) {
  const size_t count = a.blocks * kBlock;
  float* __restrict x = a.x;
  float* __restrict error = a.error;
  for (size_t i = 0; i < count; ++i) x[i] = x[i] - error[i];
  std::memcpy(a.error, a.x, count * sizeof(float));
  std::memset(a.x, 0, count * sizeof(float));
}

// Those of power_sgd_compressor.cc.
void powersgd_limit(const Arrays& a) {
  const size_t count = a.blocks * kBlock;
  float* __restrict x = a.x;
  float* __restrict error = a.error;
  for (size_t i = 0; i < count; ++i) x[i] = x[i] - error[i];
  look_at(a.x, a.sums, count);
  for (size_t i = 0; i < count; ++i) {
    error[i] = x[i] - 1.0f;
    x[i] = 1.0f;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  Arrays arrays{};
  arrays.blocks = std::strtoull(argv[1], nullptr, 10) / kBlock;
  arrays.ranks = std::strtoull(argv[2], nullptr, 10);
  const size_t count = arrays.blocks * kBlock;
  arrays.x = allocate<float>(count);
  arrays.error = allocate<float>(count);
  arrays.sent = allocate<uint8_t>(count / 8);
  arrays.values = allocate<uint8_t>(2 * count);
  arrays.sums = allocate<float>(kBlock);
  for (size_t r = 0; r < arrays.ranks; ++r) {
    arrays.received.push_back(allocate<uint8_t>(count / 8));
    for (size_t i = 0; i < count / 8; ++i)
      arrays.received[r][i] = static_cast<uint8_t>((i + r) * 2654435761u >> 24);
  }
  const std::pair<std::string, void (*)(const Arrays&)> passes[] = {
      {"pack", pack},
      {"pack limit", pack_limit},
      {"average", average},
      {"average limit", average_limit},
      {"unpack", unpack},
      {"unpack limit", unpack_limit},
      {"int8 limit", int8_limit},
      {"topk limit", topk_limit},
      {"powersgd limit", powersgd_limit},
  };
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const auto* pass = std::find_if(std::begin(passes), std::end(passes),
                                    [&](const auto& entry) { return entry.first == line; });
    if (pass == std::end(passes)) return 2;
    // Ordinary momentum, whatever the pass before has left: no denormals, no growth.
    for (size_t i = 0; i < count; ++i) {
      arrays.x[i] =
          static_cast<float>(static_cast<int>(i * 2654435761u >> 16) % 1000 - 500) * 1e-3f;
      arrays.error[i] = 0.25f - arrays.x[i] * 0.5f;
    }
    const auto start = std::chrono::steady_clock::now();
    pass->second(arrays);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << seconds.count() << std::endl;
  }
}
