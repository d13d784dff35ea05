// Sums into buffers, rotary position embedding and dropout.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/isa.h"

namespace dsjs {

// Throws EngineError INVALID_ARGUMENT naming the first index outside [−V, V).
void check_indices(const int64_t* indices, size_t count, size_t V);

// Where dropout's random numbers come from. `rng` is the operator's input: [seed, step, sample
// index of each of the B samples]. The mask is a function of these and of the element's place alone
// (Philox 4x32-10, Salmon et al., SC 2011): key = (seed low, seed high), counter = (column / 4 +
// 2¹⁶·row, stream + 2¹⁶·plane, step low, sample index low), lane = column mod 4, uniform = (lane's
// word >> 8)·2⁻²⁴ in [0, 1). Places and not offsets: how far a sample is padded must not change
// its mask.
struct DropoutMask {
  const int64_t* rng;
  uint32_t stream;
  // Kept where uniform ≥ ratio; in [0, 1).
  float ratio;
  // Of a sample: its last axis, the one before it, and all others together. At most 2¹⁸, 2¹⁶, 2¹⁶.
  size_t columns;
  size_t rows = 1;
  size_t planes = 1;
};

struct ElementwiseKernels {
  // first: buffer = grad, else buffer += grad, over elements [begin, end).
  void (*accumulate)(const float* grad, float* buffer, bool first, size_t begin, size_t end);
  // buffer[V, D] += Σ over t with indices[t] = row of dy[t, ·], t ascending, for the columns
  // [begin, end); `first` zeroes them before. Split over columns: the sum of an element never
  // depends on how. Negative indices count from the end.
  void (*embedding_grad)(const float* dy, const int64_t* indices, float* buffer, size_t T, size_t V,
                         size_t D, bool first, size_t begin, size_t end);
  // Rows [begin, end) of X [B·H·S, D], D even; cos and sin [S, D/2], indexed by row mod S.
  // y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin over the halves of a row; inverse: −sin. y may be x.
  // (Su et al., arXiv 2104.09864, in the rotate-halves order of GPT-NeoX and Llama)
  void (*rotary)(const float* x, const float* cos, const float* sin, float* y, size_t S, size_t D,
                 bool inverse, size_t begin, size_t end);
  // y = x·keep/(1 − ratio) over elements [begin, end) of all samples; its own gradient. y may be x.
  // When not training the caller copies instead.
  void (*dropout)(const float* x, float* y, const DropoutMask& mask, size_t begin, size_t end);
  // kept = 1 where dropout keeps an element, else 0, over elements [begin, end) of all samples.
  void (*dropout_kept)(uint8_t* kept, const DropoutMask& mask, size_t begin, size_t end);
  // target[begin, end) = value
  void (*fill)(float* target, float value, size_t begin, size_t end);
  // target = a·target + b·source over [begin, end); a = 0 does not read target. Source may be
  // target.
  void (*axpby)(const float* source, float* target, float b, float a, size_t begin, size_t end);
};

const ElementwiseKernels& elementwise_kernels(Isa isa = active_isa());
const ElementwiseKernels& elementwise_reference();

// fill and axpby for any two float types (float32, float16, bfloat16, float64), elements [begin,
// end). Computed in fp32; in fp64 when either is float64.
void fill_floats(void* target, DType type, double value, size_t begin, size_t end);
void axpby_floats(const void* source, DType source_type, void* target, DType target_type, double b,
                  double a, size_t begin, size_t end);

}  // namespace dsjs
