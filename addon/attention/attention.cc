// Tasks of a call and the threads that take them. A task writes what no other one writes, so it
// does not matter which thread takes it, nor when.
#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "attention/attention_kernels.h"
#include "core/error.h"
#include "core/isa_tables.h"

namespace dsjs {

DSJS_DECLARE_ISA_TABLES(AttentionKernels, attention)

#if defined(DSJS_HAS_AMX)
namespace amx {
extern const AttentionKernels attention;
}
#endif
namespace {

// Tiles take 32 rows, columns and terms at a time; smaller operands would be filled up with zeros.
// Under a layout copies of a block serve few others: blocks of 32 are faster as they lie.
constexpr size_t kAmxRows = 64, kAmxSize = 32;

bool pays_in_tiles(const Attention& a) {
  if (a.layout && (a.layout->block < kAmxRows || a.layout->block % kAmxSize != 0)) return false;
  return a.Sq >= kAmxRows && a.Sk >= kAmxRows && a.D >= kAmxSize;
}

}  // namespace

const AttentionKernels& attention_kernels(const Attention& a, Isa isa) {
#if defined(DSJS_HAS_AMX)
  if (own_isa(isa) == Isa::kAmx && pays_in_tiles(a)) return amx::attention;
#endif
  return DSJS_ISA_TABLE(isa, attention);
}

namespace {

size_t parts_of(size_t total, size_t size) { return (total + size - 1) / size; }

// Each of at most `threads` workers with scratch memory of its own takes task after task.
template <class Task>
void run_tasks(Parallel& parallel, size_t tasks, size_t scratch_each, float* scratch, Task&& task) {
  std::atomic<size_t> next = 0;
  const size_t workers = std::min(parallel.threads(), tasks);
  parallel.run(workers, [&](size_t worker) {
    for (size_t i = next++; i < tasks; i = next++) task(i, scratch + worker * scratch_each);
  });
}

// How many parts the blocks of queries of a key head are cut into: enough tasks that threads end at
// about the same time, and not so short that packing the keys for each of them counts.
size_t forward_parts(const Attention& a, size_t threads) {
  constexpr size_t kTasksPerThread = 4, kLeastBlocks = 4;
  if (threads == 1) return 1;
  const size_t units = a.H / a.Hkv * query_blocks(a);
  const size_t wanted = parts_of(kTasksPerThread * threads, a.B * a.Hkv);
  return std::max<size_t>(1, std::min(wanted, units / kLeastBlocks));
}

// What a part of a backward pass has some of: see BackwardTask.
size_t split_blocks(const Attention& a) { return a.layout ? query_blocks(a) : key_blocks(a); }

// How many parts these blocks are cut into. Each part sums up gradients of its own, which costs
// memory: there is more than one only where heads alone leave a fifth of the threads idle.
size_t backward_parts(const Attention& a, size_t threads) {
  const size_t most = std::max<size_t>(1, std::min(threads, split_blocks(a)));
  for (size_t parts = 1; parts < most; ++parts) {
    const size_t tasks = a.B * a.Hkv * parts;
    if (5 * tasks >= 4 * threads * parts_of(tasks, threads)) return parts;
  }
  return most;
}

// The bounds of parts of about equal work: bounds[p] to bounds[p + 1].
size_t part_begin(const Attention& a, size_t kv_head, size_t part, size_t parts) {
  const size_t blocks = split_blocks(a), group = a.H / a.Hkv;
  if (part == 0 || part == parts) return part == 0 ? 0 : blocks;
  const auto work = [&](size_t block) {
    size_t tiles = 1;
    for (size_t i = 0; i < group; ++i) {
      const size_t head = kv_head * group + i;
      tiles += (a.layout ? keys_of(a, head, block) : queries_of(a, block)).count;
    }
    return tiles;
  };
  size_t total = 0;
  for (size_t block = 0; block < blocks; ++block) total += work(block);
  size_t before = 0, block = 0;
  for (; block < blocks && before * parts < part * total; ++block) before += work(block);
  return block;
}

bool empty(const Attention& a) { return a.B == 0 || a.H == 0 || a.Sq == 0; }

}  // namespace

void check_attention(const Attention& a) {
  if (a.layout && (a.layout->block == 0 || a.layout->block % 16 || a.layout->block > kDenseKeys))
    throw EngineError("INVALID_ARGUMENT", "attention: blocks of " +
                                              std::to_string(a.layout->block) +
                                              "; they must be a multiple of 16 and at most " +
                                              std::to_string(kDenseKeys));
  constexpr size_t kRows = size_t{1} << 16, kColumns = size_t{1} << 18;
  if (a.dropout.rng && (a.H > kRows || a.Sq > kRows || a.Sk > kColumns))
    throw EngineError("INVALID_ARGUMENT", "attention dropout: " + std::to_string(a.H) +
                                              " heads of " + std::to_string(a.Sq) +
                                              " queries and " + std::to_string(a.Sk) +
                                              " keys; it can tell 65536, 65536 and 262144 apart");
}

size_t attention_scratch(const Attention& a, size_t threads, Isa isa) {
  return threads * attention_kernels(a, isa).forward_scratch(a);
}

size_t attention_grad_scratch(const Attention& a, size_t threads, Isa isa) {
  const AttentionKernels& kernels = attention_kernels(a, isa);
  const size_t parts = backward_parts(a, threads);
  return threads * kernels.backward_scratch(a) +
         (parts > 1 ? parts * a.B * a.Hkv * kernels.sums_size(a) : 0);
}

void attention(const Attention& a, const AttentionResult& result, Parallel& parallel,
               float* scratch, Isa isa) {
  if (empty(a)) return;
  const AttentionKernels& kernels = attention_kernels(a, isa);
  const size_t heads = a.B * a.Hkv, parts = forward_parts(a, parallel.threads());
  const size_t units = a.H / a.Hkv * query_blocks(a);
  run_tasks(parallel, heads * parts, kernels.forward_scratch(a), scratch,
            [&](size_t i, float* memory) {
              // With a causal mask the last part has most to do: it goes first.
              const size_t part = parts - 1 - i / heads, head = i % heads;
              const ForwardTask task{head / a.Hkv, head % a.Hkv, part * units / parts,
                                     (part + 1) * units / parts};
              kernels.forward(a, result, task, memory);
            });
}

void attention_grad(const Attention& a, const AttentionGradient& gradient, Parallel& parallel,
                    float* scratch, Isa isa) {
  if (a.B == 0 || a.H == 0) return;
  const AttentionKernels& kernels = attention_kernels(a, isa);
  const size_t heads = a.B * a.Hkv, parts = backward_parts(a, parallel.threads());
  const size_t each = kernels.backward_scratch(a), sums_size = kernels.sums_size(a);
  float* sums = parts > 1 ? scratch + parallel.threads() * each : nullptr;
  run_tasks(parallel, heads * parts, each, scratch, [&](size_t i, float* memory) {
    const size_t part = i / heads, head = i % heads;
    const BackwardTask task{head / a.Hkv, head % a.Hkv, part_begin(a, head % a.Hkv, part, parts),
                            part_begin(a, head % a.Hkv, part + 1, parts),
                            sums ? sums + i * sums_size : nullptr};
    kernels.backward(a, gradient, task, memory);
  });
  if (!sums) return;
  const size_t blocks = a.layout ? key_blocks(a) : a.H / a.Hkv * query_blocks(a);
  parallel.run(heads * blocks, [&](size_t i) {
    const size_t head = i / blocks;
    kernels.add_up(a, gradient,
                   {head / a.Hkv, head % a.Hkv, i % blocks, sums + head * sums_size, parts,
                    heads * sums_size});
  });
}

}  // namespace dsjs
