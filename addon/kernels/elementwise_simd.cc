#include "core/simd.h"
#include "kernels/elementwise.h"

namespace dsjs::DSJS_ISA {
namespace {

void accumulate(const float* grad, float* buffer, bool first, size_t begin, size_t end) {
  if (first)
    std::memcpy(buffer + begin, grad + begin, (end - begin) * sizeof(float));
  else
    map(
        buffer, begin, end, [](F32 sum, F32 g) { return sum + g; }, buffer, grad);
}

void embedding_grad(const float* dy, const int64_t* indices, float* buffer, size_t T, size_t V,
                    size_t D, bool first, size_t begin, size_t end) {
  if (first)
    for (size_t v = 0; v < V; ++v)
      std::memset(buffer + v * D + begin, 0, (end - begin) * sizeof(float));
  for (size_t t = 0; t < T; ++t) {
    const size_t row = indices[t] < 0 ? V - static_cast<size_t>(-indices[t]) : indices[t];
    map(
        buffer + row * D, begin, end, [](F32 sum, F32 g) { return sum + g; }, buffer + row * D,
        dy + t * D);
  }
}

void rotary(const float* x, const float* cos, const float* sin, float* y, size_t S, size_t D,
            bool inverse, size_t begin, size_t end) {
  const size_t half = D / 2;
  const F32 sign = splat(inverse ? -1.0f : 1.0f);
  const auto rotate = [sign](F32& x1, F32& x2, F32 c, F32 s) {
    const F32 signed_sin = s * sign;
    const F32 y1 = x1 * c - x2 * signed_sin;
    x2 = x2 * c + x1 * signed_sin;
    x1 = y1;
  };
  for (size_t row = begin; row < end; ++row) {
    const float* in = x + row * D;
    float* out = y + row * D;
    const float* c = cos + row % S * half;
    const float* s = sin + row % S * half;
    size_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      F32 x1 = load(in + i), x2 = load(in + half + i);
      rotate(x1, x2, load(c + i), load(s + i));
      store(out + i, x1);
      store(out + half + i, x2);
    }
    if (i < half) {
      const size_t rest = half - i;
      F32 x1 = load_part(in + i, rest), x2 = load_part(in + half + i, rest);
      rotate(x1, x2, load_part(c + i, rest), load_part(s + i, rest));
      store_part(out + i, x1, rest);
      store_part(out + half + i, x2, rest);
    }
  }
}

// Philox 4x32-10 of kLanes consecutive counters {first + lane, c1, c2, c3}: words[4·lane + word].
inline void philox(uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key,
                   uint32_t* words) {
  uint32_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) {
    a[lane] = first + static_cast<uint32_t>(lane);
    b[lane] = c1;
    c[lane] = c2;
    d[lane] = c3;
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const uint64_t p0 = uint64_t{0xD2511F53} * a[lane];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * c[lane];
      const uint32_t next_a = static_cast<uint32_t>(p1 >> 32) ^ b[lane] ^ k0;
      const uint32_t next_c = static_cast<uint32_t>(p0 >> 32) ^ d[lane] ^ k1;
      b[lane] = static_cast<uint32_t>(p1);
      d[lane] = static_cast<uint32_t>(p0);
      a[lane] = next_a;
      c[lane] = next_c;
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    words[4 * lane] = a[lane];
    words[4 * lane + 1] = b[lane];
    words[4 * lane + 2] = c[lane];
    words[4 * lane + 3] = d[lane];
  }
}

// Elements [begin, end) of one sample, x and y pointing at its element 0.
void dropout_sample(const float* x, float* y, const DropoutMask& mask, int64_t sample, size_t begin,
                    size_t end) {
  constexpr size_t kBlock = 4 * kLanes;
  // uniform ≥ ratio, both multiplied by 2²⁴; the product is exact, so is the comparison.
  const float threshold = mask.ratio * 0x1p24f;
  const float scale = 1.0f / (1.0f - mask.ratio);
  const uint64_t seed = static_cast<uint64_t>(mask.rng[0]);
  const uint32_t step = static_cast<uint32_t>(mask.rng[1]);
  uint32_t words[kBlock];
  for (size_t i = begin / 4 * 4; i < end; i += kBlock) {
    philox(static_cast<uint32_t>(i / 4), mask.stream, step, static_cast<uint32_t>(sample), seed,
           words);
    float factor[kBlock];
    for (size_t k = 0; k < kBlock; ++k)
      factor[k] =
          static_cast<float>(static_cast<int32_t>(words[k] >> 8)) >= threshold ? scale : 0.0f;
    if (i >= begin && i + kBlock <= end) {
      for (size_t k = 0; k < kBlock; k += kLanes)
        store(y + i + k, load(x + i + k) * load(factor + k));
    } else {
      for (size_t k = i < begin ? begin - i : 0; k < kBlock && i + k < end; ++k)
        y[i + k] = x[i + k] * factor[k];
    }
  }
}

void dropout(const float* x, float* y, const DropoutMask& mask, size_t begin, size_t end) {
  const size_t size = mask.sample_size;
  while (begin < end) {
    const size_t sample = begin / size;
    const size_t start = sample * size;
    const size_t stop = end < start + size ? end : start + size;
    dropout_sample(x + start, y + start, mask, mask.rng[2 + sample], begin - start, stop - start);
    begin = stop;
  }
}

void fill(float* target, float value, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) target[i] = value;
}

void axpby(const float* source, float* target, float b, float a, size_t begin, size_t end) {
  const F32 vb = splat(b), va = splat(a);
  if (a == 0)
    map(
        target, begin, end, [vb](F32 s) { return vb * s; }, source);
  else
    map(
        target, begin, end, [va, vb](F32 s, F32 t) { return fma(va, t, vb * s); }, source, target);
}

}  // namespace

extern const ElementwiseKernels elementwise;
const ElementwiseKernels elementwise = {accumulate, embedding_grad, rotary, dropout, fill, axpby};

}  // namespace dsjs::DSJS_ISA
