// SoftmaxGrad, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad.
#include "kernels/softmax.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;
constexpr int64_t kIgnoreIndex = -100;
// An exponential next to an addition.
constexpr size_t kExpCost = 8;

}  // namespace

void add_softmax_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "SoftmaxGrad", std::vector<Port>{{"dY", kFloat}, {"Y", kFloat}},
      std::vector<Port>{{"dX", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("dY", in[0], "Y", in[1]);
        return {in[1]};
      },
      [](const Attributes& attributes) -> Kernel {
        const int64_t axis = attributes.integer("axis", -1);
        return [axis](Call& call) {
          const Shape& shape = call.shape(1);
          require(axis == -1 || axis + 1 == static_cast<int64_t>(shape.size()),
                  "axis " + std::to_string(axis) + " is not the last axis of " +
                      dimensions_text(shape));
          const size_t D = last_axis(shape);
          const auto* dy = call.input<float>(0);
          const auto* y = call.input<float>(1);
          auto* dx = call.output<float>(0);
          call.split(element_count(rows_shape(shape)), 2 * D, [&](size_t begin, size_t end) {
            softmax_kernels().softmax_grad(dy, y, dx, D, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "SoftmaxCrossEntropy", std::vector<Port>{{"logits", kFloat}, {"labels", DType::kInt64}},
      std::vector<Port>{{"loss", kFloat}, {"lse", kFloat}}, Reuse::kNone,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("labels", in[1], "logits without the last axis", rows_shape(in[0]));
        return {in[1], in[1]};
      },
      [](const Attributes& attributes) -> Kernel {
        const int64_t ignore = attributes.integer("ignore_index", kIgnoreIndex);
        return [ignore](Call& call) {
          const size_t V = last_axis(call.shape(0));
          const size_t rows = element_count(call.shape(1));
          const auto* logits = call.input<float>(0);
          const auto* labels = call.input<int64_t>(1);
          check_labels(labels, rows, V, ignore);
          auto* loss = call.output<float>(0);
          auto* lse = call.output<float>(1);
          call.split(rows, V * kExpCost, [&](size_t begin, size_t end) {
            softmax_kernels().cross_entropy(logits, labels, loss, lse, V, ignore, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "SoftmaxCrossEntropyGrad",
      std::vector<Port>{
          {"dLoss", kFloat}, {"logits", kFloat}, {"labels", DType::kInt64}, {"lse", kFloat}},
      std::vector<Port>{{"dLogits", kFloat}}, Reuse::kInput1,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        const Shape rows = rows_shape(in[1]);
        require_same("dLoss", in[0], "logits without the last axis", rows);
        require_same("labels", in[2], "logits without the last axis", rows);
        require_same("lse", in[3], "logits without the last axis", rows);
        return {in[1]};
      },
      [](const Attributes& attributes) -> Kernel {
        const int64_t ignore = attributes.integer("ignore_index", kIgnoreIndex);
        return [ignore](Call& call) {
          const size_t V = last_axis(call.shape(1));
          const size_t rows = element_count(call.shape(2));
          const auto* dloss = call.input<float>(0);
          const auto* logits = call.input<float>(1);
          const auto* labels = call.input<int64_t>(2);
          const auto* lse = call.input<float>(3);
          check_labels(labels, rows, V, ignore);
          auto* dlogits = call.output<float>(0);
          call.split(rows, V * kExpCost, [&](size_t begin, size_t end) {
            softmax_kernels().cross_entropy_grad(dloss, logits, labels, lse, dlogits, V, ignore,
                                                 begin, end);
          });
        };
      }));
}

}  // namespace dsjs::ort
