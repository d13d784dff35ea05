#include "attention/backward.h"
#include "attention/forward.h"

namespace dsjs::DSJS_ISA {
namespace {

size_t forward_scratch(const Attention& a) { return forward_memory(a, nullptr).size; }
size_t backward_scratch(const Attention& a) { return backward_memory(a, nullptr).size; }

void forward(const Attention& a, const AttentionResult& result, const ForwardTask& task,
             float* scratch) {
  Forward(a, result, task, scratch).run();
}

void backward(const Attention& a, const AttentionGradient& gradient, const BackwardTask& task,
              float* scratch) {
  Backward(a, gradient, task, scratch).run();
}

void finish_queries(const Attention& a, const AttentionGradient& gradient, size_t sample,
                    size_t head, BlockRange rows, float* sums, size_t parts, size_t part_stride) {
  const size_t Dp = padded(a.D);
  float* total = sums + rows.begin * Dp;
  for (size_t part = 1; part < parts; ++part)
    map(
        total, 0, (rows.end - rows.begin) * Dp, [](F32 x, F32 y) { return x + y; }, total,
        total + part * part_stride);
  unpack_rows(total, rows.end - rows.begin, a.D, Dp, a.scale, rotation_at(a, rows.begin),
              row_of(gradient.dq, sample, head, rows.begin), gradient.dq.row);
}

}  // namespace

extern const AttentionKernels attention;
const AttentionKernels attention = {padded,  forward_scratch, backward_scratch,
                                    forward, backward,        finish_queries};

}  // namespace dsjs::DSJS_ISA
