// Random attention problems, their exact results, and how far rounding may take others from them.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "kernels/kernel_testing.h"

namespace dsjs::testing {

enum class Storage { kBhsd, kBshd, kPacked };

struct Options {
  size_t B = 1, H = 1, Hkv = 1, Sq = 1, Sk = 1, D = 16;
  Storage storage = Storage::kBhsd;
  float spread = 1;  // Q and K are in [−spread, spread]
  bool causal = false, mask = false, rotated = false, dropout = false;
  // Which axes of the bias are full; any other broadcasts. −1: no bias.
  int bias_axes = -1;
  // The bias has −∞ and the lowest number too, in single places and in whole rows.
  bool harsh = false;
  // Blocks of so many rows, about half of them present; 0: all of them.
  size_t block = 0;
  bool layout_per_head = false;
  uint64_t seed = 1;
};

inline std::string text_of(const Options& o) {
  const auto n = [](size_t v) { return std::to_string(v); };
  return "B " + n(o.B) + " H " + n(o.H) + "/" + n(o.Hkv) + " S " + n(o.Sq) + "x" + n(o.Sk) + " D " +
         n(o.D) + " storage " + n(size_t(o.storage)) + (o.causal ? " causal" : "") +
         (o.mask ? " mask" : "") + (o.rotated ? " rotated" : "") + (o.dropout ? " dropout" : "") +
         " bias " + std::to_string(o.bias_axes) + " block " + n(o.block) +
         (o.harsh ? " harsh" : "") + (o.layout_per_head ? " per head" : "") + " seed " + n(o.seed) +
         " ";
}

class RandomLayout {
 public:
  RandomLayout(Random& random, const Options& o) {
    const size_t rows = (o.Sq + o.block - 1) / o.block, columns = (o.Sk + o.block - 1) / o.block;
    const size_t heads = o.layout_per_head ? o.H : 1;
    memory_.resize(heads);
    for (Lists& own : memory_)
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c)
          if (random.bits() % 2) own.blocks.push_back(static_cast<uint32_t>(c));
        own.starts.push_back(static_cast<uint32_t>(own.blocks.size()));
      }
    for (const Lists& own : memory_) lists_.push_back({own.starts.data(), own.blocks.data()});
    layout_ = {o.block, heads, lists_.data()};
  }
  const BlockLayout* get() const { return &layout_; }

 private:
  struct Lists {
    std::vector<uint32_t> starts{0}, blocks;
  };
  std::vector<Lists> memory_;
  std::vector<BlockLists> lists_;
  BlockLayout layout_;
};

constexpr float kLowest = -3.402823466e38f;

// Where heads lie in an array.
struct Place {
  size_t offset, batch, head, row, size;
};
inline Place place_of(Storage storage, size_t B, size_t heads, size_t length, size_t D,
                      size_t first, size_t in_row) {
  if (storage == Storage::kBhsd)
    return {0, heads * length * D, length * D, D, B * heads * length * D};
  return {first * D, length * in_row * D, D, in_row * D, B * length * in_row * D};
}

// A problem and the arrays it points to.
class Problem {
 public:
  explicit Problem(const Options& options) : o(options), random_(options.seed) {
    const bool packed = o.storage == Storage::kPacked;
    const size_t row = o.H + 2 * o.Hkv;
    qp = place_of(o.storage, o.B, o.H, o.Sq, o.D, 0, packed ? row : o.H);
    kp = place_of(o.storage, o.B, o.Hkv, o.Sk, o.D, packed ? o.H : 0, packed ? row : o.Hkv);
    vp = place_of(o.storage, o.B, o.Hkv, o.Sk, o.D, packed ? o.H + o.Hkv : 0, packed ? row : o.Hkv);
    yp = place_of(o.storage, o.B, o.H, o.Sq, o.D, 0, o.H);
    q = random_.vector(qp.size, -o.spread, o.spread);
    k = packed ? q : random_.vector(kp.size, -o.spread, o.spread);
    v = packed ? q : random_.vector(vp.size);
    dy = random_.vector(yp.size);
    if (o.mask) {
      mask.resize(o.B * o.Sk);
      for (uint8_t& m : mask) m = random_.bits() % 4 != 0;
    }
    if (o.rotated) {
      const size_t half = o.D / 2;
      for (size_t i = 0; i < o.Sq * half; ++i) {
        const float angle = random_.uniform(-3, 3);
        cos.push_back(std::cos(angle));
        sin.push_back(std::sin(angle));
      }
    }
    if (o.bias_axes >= 0) make_bias();
    if (o.dropout) {
      rng = {static_cast<int64_t>(random_.bits()), 7};
      for (size_t b = 0; b < o.B; ++b) rng.push_back(static_cast<int64_t>(100 + 3 * b));
    }
    if (o.block) layout = std::make_unique<RandomLayout>(random_, o);
  }

  Attention attention() const {
    Attention a{};
    a.B = o.B, a.H = o.H, a.Hkv = o.Hkv, a.Sq = o.Sq, a.Sk = o.Sk, a.D = o.D;
    a.scale = 1 / std::sqrt(static_cast<float>(o.D));
    a.q = in(q, qp), a.k = in(k, kp), a.v = in(v, vp);
    a.bias = bias_view;
    if (!bias.empty()) a.bias.data = bias.data();
    a.key_mask = o.mask ? mask.data() : nullptr;
    a.causal = o.causal;
    a.cos = o.rotated ? cos.data() : nullptr;
    a.sin = o.rotated ? sin.data() : nullptr;
    if (o.dropout) a.dropout = {rng.data(), 5, 0.25f, 0};
    a.layout = layout ? layout->get() : nullptr;
    return a;
  }
  static HeadRows in(const std::vector<float>& x, const Place& p) {
    return {x.data() + p.offset, p.batch, p.head, p.row};
  }
  static HeadRowsOut out(std::vector<float>& x, const Place& p) {
    return {x.data() + p.offset, p.batch, p.head, p.row};
  }

  const Options o;
  Place qp, kp, vp, yp;
  std::vector<float> q, k, v, dy, cos, sin, bias;
  std::vector<uint8_t> mask;
  std::vector<int64_t> rng;
  ScoreBias bias_view{};
  std::unique_ptr<RandomLayout> layout;

 private:
  void make_bias() {
    const size_t sizes[] = {o.B, o.H, o.Sq, o.Sk};
    size_t strides[4], stride = 1;
    for (int axis = 3; axis >= 0; --axis) {
      const bool full = o.bias_axes >> axis & 1;
      strides[axis] = full ? stride : 0;
      stride *= full ? sizes[axis] : 1;
    }
    bias = random_.vector(stride, -2, 2);
    for (size_t i = 0; o.harsh && i < bias.size(); ++i) {
      const size_t row = i / (o.bias_axes & 8 ? o.Sk : 1) % 5;
      if (row < 2 || random_.bits() % 8 == 0)
        bias[i] = row == 1 || random_.bits() % 2 == 0 ? kLowest : -INFINITY;
      if (row == 0) bias[i] = -INFINITY;
    }
    bias_view = {nullptr, strides[0], strides[1], strides[2], strides[3]};
  }
  Random random_;
};

struct Values {
  std::vector<float> y, lse;
};
struct Gradients {
  std::vector<float> dq, dk, dv;
  bool operator==(const Gradients&) const = default;
};

// Memory that a kernel must have written before anything reads it.
inline std::vector<float> unwritten(size_t count) { return std::vector<float>(count, NAN); }

template <class Run>
Values run_forward(const Problem& p, Run run) {
  Values values{unwritten(p.yp.size), unwritten(p.o.B * p.o.H * p.o.Sq)};
  run(AttentionResult{Problem::out(values.y, p.yp), values.lse.data()});
  return values;
}

// In packed storage every array holds one of the three gradients, and what it has not is not read.
template <class Run>
Gradients run_backward(const Problem& p, const Values& values, Run run) {
  Gradients g{std::vector<float>(p.qp.size), std::vector<float>(p.kp.size),
              std::vector<float>(p.vp.size)};
  run(AttentionGradient{Problem::in(p.dy, p.yp), Problem::in(values.y, p.yp), values.lse.data(),
                        Problem::out(g.dq, p.qp), Problem::out(g.dk, p.kp),
                        Problem::out(g.dv, p.vp)});
  return g;
}

inline Values forward_of(const Problem& p, Isa isa, Parallel& threads) {
  const Attention a = p.attention();
  std::vector<float> scratch = unwritten(attention_scratch(a, threads.threads(), isa));
  return run_forward(p, [&](const AttentionResult& result) {
    attention(a, result, threads, scratch.data(), isa);
  });
}

inline Gradients backward_of(const Problem& p, const Values& values, Isa isa, Parallel& threads) {
  const Attention a = p.attention();
  std::vector<float> scratch = unwritten(attention_grad_scratch(a, threads.threads(), isa));
  return run_backward(p, values, [&](const AttentionGradient& gradient) {
    attention_grad(a, gradient, threads, scratch.data(), isa);
  });
}

inline Values exact_forward(const Problem& p) {
  return run_forward(
      p, [&](const AttentionResult& result) { attention_reference(p.attention(), result); });
}
inline Gradients exact_backward(const Problem& p, const Values& values) {
  return run_backward(p, values, [&](const AttentionGradient& gradient) {
    attention_grad_reference(p.attention(), gradient);
  });
}

}  // namespace dsjs::testing
