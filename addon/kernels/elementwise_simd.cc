#include "core/simd.h"
#include "kernels/dropout_mask.h"
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

// Columns [begin, end) of one row, x and y pointing at its element 0.
void dropout_row(const float* x, float* y, const DropoutMask& mask, int64_t sample, size_t plane,
                 size_t row, size_t begin, size_t end) {
  float factor[kKeepBlock];
  for (size_t i = begin / 4 * 4; i < end; i += kKeepBlock) {
    keep_factors(mask, sample, plane, row, i, factor);
    if (i >= begin && i + kKeepBlock <= end) {
      for (size_t k = 0; k < kKeepBlock; k += kLanes)
        store(y + i + k, load(x + i + k) * load(factor + k));
    } else {
      for (size_t k = i < begin ? begin - i : 0; k < kKeepBlock && i + k < end; ++k)
        y[i + k] = x[i + k] * factor[k];
    }
  }
}

// Columns [begin, end) of one row, kept pointing at its element 0.
void kept_row(uint8_t* kept, const DropoutMask& mask, int64_t sample, size_t plane, size_t row,
              size_t begin, size_t end) {
  float factor[kKeepBlock];
  for (size_t i = begin / 4 * 4; i < end; i += kKeepBlock) {
    keep_factors(mask, sample, plane, row, i, factor);
    for (size_t k = i < begin ? begin - i : 0; k < kKeepBlock && i + k < end; ++k)
      kept[i + k] = factor[k] != 0.0f;
  }
}

// Calls fn(start, sample, plane, row, first, last) for the columns [first, last) of each row that
// [begin, end) touches; `start` is the row's element 0.
template <class F>
void for_each_row(const DropoutMask& mask, size_t begin, size_t end, F fn) {
  const size_t columns = mask.columns;
  while (begin < end) {
    const size_t line = begin / columns, start = line * columns;
    const size_t stop = end < start + columns ? end : start + columns;
    const size_t row = line % mask.rows, plane = line / mask.rows % mask.planes;
    const int64_t sample = mask.rng[2 + line / mask.rows / mask.planes];
    fn(start, sample, plane, row, begin - start, stop - start);
    begin = stop;
  }
}

void dropout(const float* x, float* y, const DropoutMask& mask, size_t begin, size_t end) {
  for_each_row(
      mask, begin, end,
      [&](size_t start, int64_t sample, size_t plane, size_t row, size_t first, size_t last) {
        dropout_row(x + start, y + start, mask, sample, plane, row, first, last);
      });
}

void dropout_kept(uint8_t* kept, const DropoutMask& mask, size_t begin, size_t end) {
  for_each_row(mask, begin, end,
               [&](size_t start, int64_t sample, size_t plane, size_t row, size_t first,
                   size_t last) { kept_row(kept + start, mask, sample, plane, row, first, last); });
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
const ElementwiseKernels elementwise = {accumulate,   embedding_grad, rotary, dropout,
                                        dropout_kept, fill,           axpby};

}  // namespace dsjs::DSJS_ISA
