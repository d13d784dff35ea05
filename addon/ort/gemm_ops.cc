// MatMul, MatMulAccumulate, LinearCrossEntropy, LinearCrossEntropyGrad.
#include <algorithm>

#include "gemm/gemm.h"
#include "gemm/linear_cross_entropy.h"
#include "kernels/softmax.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;

// The value of attribute `name` among `choices`, whose order is that of Kind's values.
template <class Kind, size_t count>
Kind choice(const Attributes& attributes, const char* name, const char* const (&choices)[count]) {
  const std::string given = attributes.text(name, choices[0]);
  std::string known;
  for (size_t i = 0; i < count; ++i) {
    if (given == choices[i]) return static_cast<Kind>(i);
    known += (i > 0 ? ", " : "") + std::string(choices[i]);
  }
  require(false, std::string(name) + " is '" + given + "'; it must be one of " + known);
  return Kind{};
}

Prologue prologue_of(const Attributes& attributes, const char* name = "prologue") {
  static constexpr const char* kNames[] = {"none", "gelu", "gelu_tanh", "silu", "silu_mul"};
  return choice<Prologue>(attributes, name, kNames);
}

Epilogue epilogue_of(const Attributes& attributes) {
  static constexpr const char* kNames[] = {"none",      "gelu",           "gelu_tanh", "silu",
                                           "gelu_grad", "gelu_tanh_grad", "silu_grad"};
  return choice<Epilogue>(attributes, "epilogue", kNames);
}

// An operand of a product: matrices over leading axes.
struct Operand {
  size_t rows, columns;  // of op(X)
  MatrixStrides strides;
  Shape leading;
};

Operand operand_of(const char* name, const Shape& shape, bool transposed) {
  require(shape.size() >= 2,
          std::string(name) + " is " + dimensions_text(shape) + "; it must have two axes or more");
  const auto rows = static_cast<size_t>(shape[shape.size() - 2]);
  const auto columns = static_cast<size_t>(shape.back());
  Shape leading(shape.begin(), shape.end() - 2);
  if (transposed) return {columns, rows, {1, columns}, std::move(leading)};
  return {rows, columns, {columns, 1}, std::move(leading)};
}

void require_inner(const Operand& a, const Operand& b) {
  require(a.columns == b.rows,
          "op(A) is " + dimensions_text({int64_t(a.rows), int64_t(a.columns)}) + " and op(B) is " +
              dimensions_text({int64_t(b.rows), int64_t(b.columns)}) +
              "; columns of A and rows of B must be the same");
}

// `first` and `second` are the inputs A and A2, or B and B2; `name` is that of the attribute.
void require_prologue(const char* name, Prologue prologue, const std::vector<Shape>& in,
                      size_t first, size_t second) {
  const std::string operand = first == 0 ? "A" : "B";
  require((prologue == Prologue::kSiluMul) == !in[second].empty(),
          operand + "2 is for the " + name + " silu_mul, and only for it");
  if (!in[second].empty())
    require_same((operand + "2").c_str(), in[second], operand.c_str(), in[first]);
}

// Leading axes as numpy broadcasts them: aligned at the end, an axis of 1 fits any.
Shape broadcast(const Shape& a, const Shape& b) {
  Shape result(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < result.size(); ++i) {
    const auto size_of_axis = [&](const Shape& shape) {
      const size_t from_end = result.size() - i;
      return from_end > shape.size() ? 1 : shape[shape.size() - from_end];
    };
    const int64_t x = size_of_axis(a), y = size_of_axis(b);
    require(x == y || x == 1 || y == 1, "the leading axes " + dimensions_text(a) + " of A and " +
                                            dimensions_text(b) + " of B do not broadcast");
    result[i] = x == 1 ? y : x;
  }
  return result;
}

// Strides of an operand's matrices over the broadcast leading axes.
void batch_strides(const Operand& operand, size_t axes, size_t (&strides)[kMaxBatchAxes]) {
  size_t stride = operand.rows * operand.columns;
  const Shape& leading = operand.leading;
  for (size_t i = 0; i < std::min(leading.size(), axes); ++i) {
    const auto size = static_cast<size_t>(leading[leading.size() - 1 - i]);
    strides[axes - 1 - i] = size == 1 ? 0 : stride;
    stride *= size;
  }
}

// What products widen as they read it, or fp32.
void require_widened(const char* name, DType dtype) {
  require(
      dtype == kFloat || dtype == DType::kBFloat16 || dtype == DType::kFloat16,
      std::string(name) + " is " + dtype_name(dtype) + "; it must be float32, bfloat16 or float16");
}

void run_product(Call& call, const Product& product) {
  auto* scratch = call.scratch<float>(gemm_scratch(product, call.pool().threads()));
  gemm(product, call.pool(), scratch);
}

struct MatMul {
  enum Input { kA, kB, kA2, kBias, kResidual, kZ };

  bool trans_a, trans_b;
  float alpha;
  Prologue prologue;
  Epilogue epilogue;

  void operator()(Call& call) const {
    const std::vector<Shape>& in = call.shapes();
    Operand a = operand_of("A", in[kA], trans_a);
    const Operand b = operand_of("B", in[kB], trans_b);
    require_inner(a, b);
    Shape leading = broadcast(a.leading, b.leading);
    Shape y = leading;
    y.insert(y.end(), {int64_t(a.rows), int64_t(b.columns)});
    require_prologue("prologue", prologue, in, kA, kA2);
    if (call.has(kBias)) require_same("bias", in[kBias], "[N]", {y.back()});
    if (call.has(kResidual)) require_same("residual", in[kResidual], "Y", y);
    require((epilogue >= Epilogue::kGeluGrad) == call.has(kZ),
            "Z is for the epilogues that are gradients, and only for them");
    if (call.has(kZ)) require_same("Z", in[kZ], "Y", y);
    require_widened("B", call.dtype(kB));

    // One matrix B: the leading axes of A are more rows.
    if (!trans_a && element_count(b.leading) == 1) {
      a.rows *= element_count(a.leading);
      a.leading.clear();
      leading.clear();
    }
    require(leading.size() <= kMaxBatchAxes,
            "there are more than " + std::to_string(kMaxBatchAxes) + " leading axes");
    Product product = plain_product(a.rows, b.columns, a.columns);
    product.a = call.input<float>(kA);
    product.a_strides = a.strides;
    product.b = call.input<void>(kB);
    product.b_dtype = call.dtype(kB);
    product.b_strides = b.strides;
    product.c = call.output<float>(0, y);
    product.alpha = alpha;
    product.prologue = prologue;
    product.a2 = call.input<float>(kA2);
    product.epilogue = epilogue;
    product.bias = call.input<float>(kBias);
    product.residual = call.input<float>(kResidual);
    product.z = call.input<float>(kZ);
    product.batch.axes = leading.size();
    std::copy(leading.begin(), leading.end(), product.batch.size);
    batch_strides(a, leading.size(), product.batch.a_stride);
    batch_strides(b, leading.size(), product.batch.b_stride);
    run_product(call, product);
  }
};

struct MatMulAccumulate {
  enum Input { kA, kB, kBuffer, kFirst, kA2, kBiasBuffer, kBiasFirst, kB2 };

  bool trans_a, trans_b;
  float alpha;
  Prologue prologue, prologue_b;

  void operator()(Call& call) const {
    const std::vector<Shape>& in = call.shapes();
    Operand a = operand_of("A", in[kA], trans_a), b = operand_of("B", in[kB], trans_b);
    size_t products = element_count(a.leading);
    if (trans_a && !trans_b) {
      // Rows of memory are terms of the sum in both: one product over all of them.
      a.columns *= products;
      b.rows *= element_count(b.leading);
      products = 1;
    } else {
      require(products == element_count(b.leading),
              "the leading axes " + dimensions_text(a.leading) + " of A and " +
                  dimensions_text(b.leading) + " of B hold different numbers of matrices");
    }
    require_inner(a, b);
    require_same("buffer", in[kBuffer], "the product", {int64_t(a.rows), int64_t(b.columns)});
    require_prologue("prologue", prologue, in, kA, kA2);
    require_prologue("prologueB", prologue_b, in, kB, kB2);
    require(element_count(in[kFirst]) == 1, "first must have one element");
    require(call.has(kBiasBuffer) == call.has(kBiasFirst),
            "biasBuffer and biasFirst come together");
    if (call.has(kBiasBuffer)) {
      require_same("biasBuffer", in[kBiasBuffer], "[N]", {int64_t(b.columns)});
      require(element_count(in[kBiasFirst]) == 1, "biasFirst must have one element");
    }

    Product product = plain_product(a.rows, b.columns, a.columns);
    product.a = call.input<float>(kA);
    product.a_strides = a.strides;
    product.b = call.input<float>(kB);
    product.b_strides = b.strides;
    product.c = call.in_place<float>(kBuffer);
    product.alpha = alpha;
    product.accumulate = *call.input<int32_t>(kFirst) == 0;
    product.prologue = prologue;
    product.a2 = call.input<float>(kA2);
    product.prologue_b = prologue_b;
    product.b2 = call.input<float>(kB2);
    product.column_sums = call.in_place<float>(kBiasBuffer);
    product.accumulate_sums = call.has(kBiasFirst) && *call.input<int32_t>(kBiasFirst) == 0;
    if (products == 0) product.K = 0, products = 1;  // a sum of nothing is zero
    for (size_t i = 0; i < products; ++i) {
      run_product(call, product);
      product.accumulate = product.accumulate_sums = true;
      product.a += a.rows * a.columns;
      if (product.a2) product.a2 += a.rows * a.columns;
      product.b = static_cast<const float*>(product.b) + b.rows * b.columns;
      if (product.b2) product.b2 += b.rows * b.columns;
    }
    *call.output<int32_t>(0) = 0;
  }
};

// Attributes of LinearCrossEntropy and its gradient.
struct CrossEntropyOf {
  explicit CrossEntropyOf(const Attributes& attributes)
      : ignore_index(attributes.integer("ignore_index", -100)),
        transposed(attributes.integer("transposed", 0) != 0) {}

  // X, W and labels are the inputs from `x` on.
  LinearCrossEntropy problem(const Call& call, size_t x) const {
    const Shape &W = call.shape(x + 1), &labels = call.shape(x + 2);
    require(W.size() == 2, "W is " + dimensions_text(W) + "; it must have two axes");
    const Shape sizes = transposed ? Shape{W[1], W[0]} : W;
    require(sizes[0] > 0, "W has no classes");
    Shape expected = labels;
    expected.push_back(sizes[1]);
    require_same("X", call.shape(x), "labels with W's features appended", expected);
    require_widened("W", call.dtype(x + 1));
    const LinearCrossEntropy problem{element_count(labels),
                                     static_cast<size_t>(sizes[1]),
                                     static_cast<size_t>(sizes[0]),
                                     call.input<float>(x),
                                     call.input<void>(x + 1),
                                     transposed,
                                     call.input<int64_t>(x + 2),
                                     ignore_index,
                                     call.dtype(x + 1)};
    check_labels(problem.labels, problem.T, problem.V, ignore_index);
    return problem;
  }

  int64_t ignore_index;
  bool transposed;
};

void cross_entropy(Call& call, const CrossEntropyOf& attributes) {
  const LinearCrossEntropy problem = attributes.problem(call, 0);
  auto* loss = call.output<float>(0);
  auto* lse = call.output<float>(1);
  auto* scratch = call.scratch<float>(linear_cross_entropy_scratch(problem, call.pool().threads()));
  linear_cross_entropy(problem, loss, lse, call.pool(), scratch);
}

void cross_entropy_grad(Call& call, const CrossEntropyOf& attributes) {
  enum Input { kDLoss, kX, kW, kLabels, kLse, kBuffer, kFirst, kDLse };
  const LinearCrossEntropy problem = attributes.problem(call, kX);
  require_same("dLoss", call.shape(kDLoss), "labels", call.shape(kLabels));
  require_same("lse", call.shape(kLse), "labels", call.shape(kLabels));
  require(call.has(kBuffer) == call.has(kFirst), "buffer and first come together");
  if (call.has(kBuffer)) {
    require_same("buffer", call.shape(kBuffer), "W", call.shape(kW));
    require(element_count(call.shape(kFirst)) == 1, "first must have one element");
  }
  if (call.has(kDLse)) require_same("dLse", call.shape(kDLse), "labels", call.shape(kLabels));
  const LinearCrossEntropyGradients gradients{call.input<float>(kDLoss),
                                              call.has(kDLse) ? call.input<float>(kDLse) : nullptr};
  const bool add = call.has(kFirst) && *call.input<int32_t>(kFirst) == 0;
  auto* dx = call.output<float>(0);
  auto* scratch = call.scratch<float>(linear_cross_entropy_scratch(problem, call.pool().threads()));
  linear_cross_entropy_grad(problem, gradients, call.input<float>(kLse), dx,
                            call.in_place<float>(kBuffer), add, call.pool(), scratch);
  *call.output<int32_t>(1) = 0;
}

template <void (*run)(Call&, const CrossEntropyOf&)>
Kernel cross_entropy_kernel(const Attributes& attributes) {
  return [read = CrossEntropyOf(attributes)](Call& call) { run(call, read); };
}

}  // namespace

void add_gemm_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "MatMul",
      std::vector<Port>{{"A", kFloat},
                        {"B", kAnyType},
                        {"A2", kFloat, true},
                        {"bias", kFloat, true},
                        {"residual", kFloat, true},
                        {"Z", kFloat, true}},
      std::vector<Port>{{"Y", kFloat}}, Reuse::kNone, nullptr,
      [](const Attributes& attributes) -> Kernel {
        return MatMul{attributes.integer("transA", 0) != 0, attributes.integer("transB", 0) != 0,
                      attributes.number("alpha", 1), prologue_of(attributes),
                      epilogue_of(attributes)};
      }));

  operators.push_back(std::make_unique<Operator>(
      "MatMulAccumulate",
      std::vector<Port>{{"A", kFloat},
                        {"B", kFloat},
                        {"buffer", kFloat},
                        {"first", DType::kInt32},
                        {"A2", kFloat, true},
                        {"biasBuffer", kFloat, true},
                        {"biasFirst", DType::kInt32, true},
                        {"B2", kFloat, true}},
      std::vector<Port>{kToken}, Reuse::kNone,
      [](const std::vector<Shape>&) -> std::vector<Shape> { return {kTokenShape}; },
      [](const Attributes& attributes) -> Kernel {
        return MatMulAccumulate{attributes.integer("transA", 1) != 0,
                                attributes.integer("transB", 0) != 0, attributes.number("alpha", 1),
                                prologue_of(attributes), prologue_of(attributes, "prologueB")};
      }));

  operators.push_back(std::make_unique<Operator>(
      "LinearCrossEntropy",
      std::vector<Port>{{"X", kFloat}, {"W", kAnyType}, {"labels", DType::kInt64}},
      std::vector<Port>{{"loss", kFloat}, {"lse", kFloat}}, Reuse::kNone,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        return {in[2], in[2]};
      },
      cross_entropy_kernel<cross_entropy>));

  operators.push_back(std::make_unique<Operator>(
      "LinearCrossEntropyGrad",
      std::vector<Port>{{"dLoss", kFloat},
                        {"X", kFloat},
                        {"W", kAnyType},
                        {"labels", DType::kInt64},
                        {"lse", kFloat},
                        {"buffer", kFloat, true},
                        {"first", DType::kInt32, true},
                        {"dLse", kFloat, true}},
      std::vector<Port>{{"dX", kFloat}, kToken}, Reuse::kNone,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        return {in[1], kTokenShape};
      },
      cross_entropy_kernel<cross_entropy_grad>));
}

}  // namespace dsjs::ort
