#include "attention/backward.h"
#include "attention/forward.h"
#include "attention/sparse_backward.h"
#include "attention/sparse_forward.h"

namespace dsjs::DSJS_ISA {
namespace {

size_t forward_scratch(const Attention& a) {
  return a.layout ? sparse_forward_memory(a, nullptr).size : forward_memory(a, nullptr).size;
}
size_t backward_scratch(const Attention& a) {
  return a.layout ? sparse_backward_memory(a, nullptr).size : backward_memory(a, nullptr).size;
}

void forward(const Attention& a, const AttentionResult& result, const ForwardTask& task,
             float* scratch) {
  if (a.layout)
    SparseForward(a, result, task, scratch).run();
  else
    Forward(a, result, task, scratch).run();
}

void backward(const Attention& a, const AttentionGradient& gradient, const BackwardTask& task,
              float* scratch) {
  if (a.layout)
    SparseBackward(a, gradient, task, scratch).run();
  else
    Backward(a, gradient, task, scratch).run();
}

size_t sums_size(const Attention& a) {
  return (a.layout ? 2 * a.Sk : a.H / a.Hkv * a.Sq) * padded(a.D);
}

void add_parts(float* total, size_t count, const SumTask& task) {
  for (size_t part = 1; part < task.parts; ++part)
    map(
        total, 0, count, [](F32 x, F32 y) { return x + y; }, total, total + part * task.stride);
}

void add_up(const Attention& a, const AttentionGradient& g, const SumTask& task) {
  const size_t Dp = padded(a.D);
  if (a.layout) {
    const BlockRange keys = key_range(a, task.block);
    float* dk = task.sums + keys.begin * Dp;
    float* dv = dk + a.Sk * Dp;
    for (float* sums : {dk, dv}) add_parts(sums, (keys.end - keys.begin) * Dp, task);
    unpack_keys(a, g, task.sample, task.kv_head, keys, dk, dv);
    return;
  }
  const size_t blocks = query_blocks(a), in_group = task.block / blocks;
  const BlockRange rows = query_range(a, task.block % blocks);
  float* dq = task.sums + (in_group * a.Sq + rows.begin) * Dp;
  add_parts(dq, (rows.end - rows.begin) * Dp, task);
  const size_t head = task.kv_head * (a.H / a.Hkv) + in_group;
  unpack_rows(dq, rows.end - rows.begin, a.D, Dp, a.scale, rotation_at(a, rows.begin),
              row_of(g.dq, task.sample, head, rows.begin), g.dq.row);
}

}  // namespace

extern const AttentionKernels attention;
const AttentionKernels attention = {sums_size, forward_scratch, backward_scratch,
                                    forward,   backward,        add_up};

}  // namespace dsjs::DSJS_ISA
