// Attention, AttentionGrad.
#include <new>

#include "attention/attention.h"
#include "attention/block_mask.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;

enum class Layout { kBhsd, kBshd, kPacked };

struct Settings {
  Layout layout;
  size_t heads, kv_heads;
  float scale;
  bool causal;
  float ratio;
  uint32_t stream;
  size_t block;
};

Settings settings_of(const Attributes& attributes) {
  const std::string layout = attributes.text("layout", "bhsd");
  require(layout == "bhsd" || layout == "bshd" || layout == "packed",
          "layout is '" + layout + "'; it must be bhsd, bshd or packed");
  const int64_t heads = attributes.integer("heads", 0);
  const int64_t kv_heads = attributes.integer("kv_heads", heads);
  require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0,
          "heads is " + std::to_string(heads) + " and kv_heads " + std::to_string(kv_heads) +
              "; the first must be a multiple of the second, and both at least 1");
  const int64_t block = attributes.integer("block", 16);
  require(block > 0 && block % 16 == 0,
          "block is " + std::to_string(block) + "; it must be a multiple of 16");
  const float ratio = attributes.number("ratio", 0);
  require(ratio >= 0 && ratio < 1, "ratio is " + std::to_string(ratio) + "; it must be in [0, 1)");
  return {layout == "bhsd"   ? Layout::kBhsd
          : layout == "bshd" ? Layout::kBshd
                             : Layout::kPacked,
          static_cast<size_t>(heads),
          static_cast<size_t>(kv_heads),
          attributes.number("scale", 1),
          attributes.integer("causal", 0) != 0,
          ratio,
          static_cast<uint32_t>(attributes.integer("stream", 0)),
          static_cast<size_t>(block)};
}

// Where the inputs of a node are: Attention and its gradient differ in what comes before them.
struct Inputs {
  size_t q, k, v, bias, key_mask, cos, sin, rng, training, blocks;
};
constexpr Inputs kForward{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
constexpr size_t kDy = 0, kY = 4, kLse = 5;
constexpr Inputs kBackward{1, 2, 3, 6, 7, 8, 9, 10, 11, 12};

// Strides of `heads` heads that begin `first` heads into rows of `in_row` heads.
struct Strides {
  size_t offset, batch, head, row;
};
Strides strides_of(Layout layout, size_t heads, size_t length, size_t D, size_t first,
                   size_t in_row) {
  if (layout == Layout::kBhsd) return {0, heads * length * D, length * D, D};
  return {first * D, length * in_row * D, D, in_row * D};
}
HeadRows rows_at(const float* data, const Strides& s) {
  return {data + s.offset, s.batch, s.head, s.row};
}
HeadRowsOut rows_at(float* data, const Strides& s) {
  return {data + s.offset, s.batch, s.head, s.row};
}

// What the shapes and the attributes say together.
struct Heads {
  Attention a{};
  Strides q, k, v, y;
  Shape y_shape, lse_shape;
};

ScoreBias bias_of(const float* data, const Shape& shape, const Attention& a) {
  const size_t full[] = {a.B, a.H, a.Sq, a.Sk};
  size_t strides[4] = {0, 0, 0, 0}, stride = 1;
  require(shape.size() <= 4, "bias is " + dimensions_text(shape) + "; it has at most four axes");
  for (size_t i = 0; i < shape.size(); ++i) {
    const size_t axis = 3 - i;
    const auto size = static_cast<size_t>(shape[shape.size() - 1 - i]);
    require(size == 1 || size == full[axis],
            "bias is " + dimensions_text(shape) + "; it must broadcast to [B, H, S, Sk] = [" +
                std::to_string(a.B) + ", " + std::to_string(a.H) + ", " + std::to_string(a.Sq) +
                ", " + std::to_string(a.Sk) + "]");
    strides[axis] = size == 1 ? 0 : stride;
    stride *= size;
  }
  return {data, strides[0], strides[1], strides[2], strides[3]};
}

void read_shapes(Heads& heads, const Call& call, const Inputs& in, const Settings& s) {
  Attention& a = heads.a;
  const Shape& q = call.shape(in.q);
  const std::string q_text = "Q is " + dimensions_text(q);
  const auto kv_heads = static_cast<int64_t>(s.kv_heads), count = static_cast<int64_t>(s.heads);
  require(q.size() == (s.layout == Layout::kBhsd ? 4 : 3),
          q_text + "; it must have " + (s.layout == Layout::kBhsd ? "four" : "three") + " axes");
  require(call.has(in.k) == (s.layout != Layout::kPacked) && call.has(in.k) == call.has(in.v),
          "K and V are given unless the layout is packed");
  a.H = s.heads;
  a.Hkv = s.kv_heads;
  a.B = static_cast<size_t>(q[0]);
  if (s.layout == Layout::kBhsd) {
    require(q[1] == count, q_text + "; its second axis must be heads = " + std::to_string(count));
    a.Sq = static_cast<size_t>(q[2]);
    a.D = static_cast<size_t>(q[3]);
  } else {
    const int64_t in_row = s.layout == Layout::kPacked ? count + 2 * kv_heads : count;
    require(q[2] % in_row == 0,
            q_text + "; its last axis must be a multiple of " + std::to_string(in_row) + " heads");
    a.Sq = static_cast<size_t>(q[1]);
    a.D = static_cast<size_t>(q[2] / in_row);
  }
  require(a.D > 0, q_text + "; heads must not be empty");
  a.Sk = a.Sq;
  if (s.layout != Layout::kPacked) {
    const Shape& k = call.shape(in.k);
    require(k.size() == q.size(), "K is " + dimensions_text(k) + " and " + q_text);
    const int64_t Sk = k[s.layout == Layout::kBhsd ? 2 : 1], D = static_cast<int64_t>(a.D);
    require_same(
        "K", k, "what Q and kv_heads say",
        s.layout == Layout::kBhsd ? Shape{q[0], kv_heads, Sk, D} : Shape{q[0], Sk, kv_heads * D});
    require_same("V", call.shape(in.v), "K", k);
    a.Sk = static_cast<size_t>(Sk);
  }
  const size_t row = s.layout == Layout::kPacked ? a.H + 2 * a.Hkv : a.Hkv;
  heads.q = strides_of(s.layout, a.H, a.Sq, a.D, 0, s.layout == Layout::kPacked ? row : a.H);
  heads.k = strides_of(s.layout, a.Hkv, a.Sk, a.D, s.layout == Layout::kPacked ? a.H : 0, row);
  heads.v =
      strides_of(s.layout, a.Hkv, a.Sk, a.D, s.layout == Layout::kPacked ? a.H + a.Hkv : 0, row);
  heads.y = strides_of(s.layout, a.H, a.Sq, a.D, 0, a.H);
  heads.y_shape = q;
  if (s.layout != Layout::kBhsd) heads.y_shape[2] = static_cast<int64_t>(a.H * a.D);
  heads.lse_shape = {q[0], count, static_cast<int64_t>(a.Sq)};
}

void read_options(Heads& heads, const Call& call, const Inputs& in, const Settings& s) {
  Attention& a = heads.a;
  a.scale = s.scale;
  a.causal = s.causal;
  if (call.has(in.bias)) a.bias = bias_of(call.input<float>(in.bias), call.shape(in.bias), a);
  if (call.has(in.key_mask)) {
    require_same("keyMask", call.shape(in.key_mask), "[B, Sk]",
                 {static_cast<int64_t>(a.B), static_cast<int64_t>(a.Sk)});
    a.key_mask = call.input<uint8_t>(in.key_mask);
  }
  require(call.has(in.cos) == call.has(in.sin), "cos and sin come together");
  if (call.has(in.cos)) {
    require(a.Sq == a.Sk && a.D % 2 == 0,
            "rotation needs as many keys as queries and heads of an even size");
    const Shape table{static_cast<int64_t>(a.Sq), static_cast<int64_t>(a.D / 2)};
    require_same("cos", call.shape(in.cos), "[S, D/2]", table);
    require_same("sin", call.shape(in.sin), "[S, D/2]", table);
    a.cos = call.input<float>(in.cos);
    a.sin = call.input<float>(in.sin);
  }
  require(call.has(in.rng) == call.has(in.training), "rng and training come together");
  if (call.has(in.rng) && s.ratio > 0) {
    require_same("rng", call.shape(in.rng), "[2 + B]", {2 + static_cast<int64_t>(a.B)});
    require(element_count(call.shape(in.training)) == 1, "training must have one element");
    if (*call.input<uint8_t>(in.training) != 0)
      a.dropout = {call.input<int64_t>(in.rng), s.stream, s.ratio, 0};
  }
}

// The lists of blocks live as long as the call does.
const BlockLayout* read_blocks(Call& call, const Inputs& in, const Settings& s,
                               const Attention& a) {
  if (!call.has(in.blocks)) return nullptr;
  const Shape& shape = call.shape(in.blocks);
  const size_t rows = (a.Sq + s.block - 1) / s.block, columns = (a.Sk + s.block - 1) / s.block;
  const size_t heads = shape.empty() ? 0 : static_cast<size_t>(shape[0]);
  require(heads == 1 || heads == a.H,
          "blocks is " + dimensions_text(shape) +
              "; its first axis must be 1 or heads = " + std::to_string(a.H));
  require_same("blocks", shape, "what lengths and block say",
               {shape[0], static_cast<int64_t>(rows), static_cast<int64_t>(columns)});
  // The first row's queries see the keys up to their own, and those that there are more of.
  const size_t more = a.Sk > a.Sq ? a.Sk - a.Sq : 0;
  const size_t first_columns = a.causal ? 1 + (more + s.block - 1) / s.block : columns;
  const auto* bitmap = call.input<uint8_t>(in.blocks);
  const BlockMask mask{bitmap, heads, rows, columns, s.block, first_columns};
  auto* lists = call.scratch<BlockLists>(heads);
  auto* starts = call.scratch<uint32_t>(block_starts_size(mask));
  auto* blocks = call.scratch<uint32_t>(count_blocks(mask, call.pool(), starts));
  return new (call.scratch<BlockLayout>(1))
      BlockLayout(block_layout_of(mask, call.pool(), starts, blocks, lists));
}

Heads read_heads(Call& call, const Inputs& in, const Settings& s) {
  Heads heads;
  read_shapes(heads, call, in, s);
  read_options(heads, call, in, s);
  const bool packed = s.layout == Layout::kPacked;
  const auto* q = call.input<float>(in.q);
  heads.a.q = rows_at(q, heads.q);
  heads.a.k = rows_at(packed ? q : call.input<float>(in.k), heads.k);
  heads.a.v = rows_at(packed ? q : call.input<float>(in.v), heads.v);
  heads.a.layout = read_blocks(call, in, s, heads.a);
  check_attention(heads.a);
  return heads;
}

void run_attention(Call& call, const Settings& settings) {
  const Heads heads = read_heads(call, kForward, settings);
  const AttentionResult result{rows_at(call.output<float>(0, heads.y_shape), heads.y),
                               call.output<float>(1, heads.lse_shape)};
  float* scratch = call.scratch<float>(attention_scratch(heads.a, call.pool().threads()));
  attention(heads.a, result, call.pool(), scratch);
}

void run_attention_grad(Call& call, const Settings& settings) {
  const Heads heads = read_heads(call, kBackward, settings);
  require_same("dY", call.shape(kDy), "what Q says", heads.y_shape);
  require_same("Y", call.shape(kY), "what Q says", heads.y_shape);
  require_same("lse", call.shape(kLse), "[B, H, S]", heads.lse_shape);
  const bool packed = settings.layout == Layout::kPacked;
  float* dq = call.output<float>(0, call.shape(kBackward.q));
  float* dk = packed ? dq : call.output<float>(1, call.shape(kBackward.k));
  float* dv = packed ? dq : call.output<float>(2, call.shape(kBackward.v));
  const AttentionGradient gradient{rows_at(call.input<float>(kDy), heads.y),
                                   rows_at(call.input<float>(kY), heads.y),
                                   call.input<float>(kLse),
                                   rows_at(dq, heads.q),
                                   rows_at(dk, heads.k),
                                   rows_at(dv, heads.v)};
  float* scratch = call.scratch<float>(attention_grad_scratch(heads.a, call.pool().threads()));
  attention_grad(heads.a, gradient, call.pool(), scratch);
}

std::vector<Port> with_options(std::vector<Port> ports) {
  for (const Port& option :
       {Port{"bias", kFloat, true}, Port{"keyMask", DType::kBool, true}, Port{"cos", kFloat, true},
        Port{"sin", kFloat, true}, Port{"rng", DType::kInt64, true},
        Port{"training", DType::kBool, true}, Port{"blocks", DType::kBool, true}})
    ports.push_back(option);
  return ports;
}

}  // namespace

void add_attention_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "Attention", with_options({{"Q", kFloat}, {"K", kFloat, true}, {"V", kFloat, true}}),
      std::vector<Port>{{"Y", kFloat}, {"lse", kFloat}}, Reuse::kNone, nullptr,
      [](const Attributes& attributes) -> Kernel {
        return [settings = settings_of(attributes)](Call& call) { run_attention(call, settings); };
      }));

  operators.push_back(std::make_unique<Operator>(
      "AttentionGrad",
      with_options({{"dY", kFloat},
                    {"Q", kFloat},
                    {"K", kFloat, true},
                    {"V", kFloat, true},
                    {"Y", kFloat},
                    {"lse", kFloat}}),
      std::vector<Port>{{"dQ", kFloat}, {"dK", kFloat, true}, {"dV", kFloat, true}}, Reuse::kNone,
      nullptr, [](const Attributes& attributes) -> Kernel {
        return [settings = settings_of(attributes)](Call& call) {
          run_attention_grad(call, settings);
        };
      }));
}

}  // namespace dsjs::ort
