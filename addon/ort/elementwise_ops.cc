// Accumulate, EmbeddingGradAccumulate, RotaryEmbedding, Dropout, DropoutGrad, DropoutMask.
#include <algorithm>

#include "kernels/elementwise.h"
#include "ort/custom_op.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;
constexpr DType kInt64 = DType::kInt64;
// Ten rounds of Philox for four elements, next to four additions.
constexpr size_t kPhiloxCost = 8;

void require_flag(const char* name, const Shape& shape) {
  require(element_count(shape) == 1,
          std::string(name) + " is " + dimensions_text(shape) + "; it must have one element");
}

// Dropout and its gradient are the same function: the mask depends on the counters alone.
// Where elements of X [B, ..., rows, columns] lie, see DropoutMask.
DropoutMask dropout_mask(const int64_t* rng, uint32_t stream, float ratio, const Shape& x) {
  DropoutMask mask{rng, stream, ratio, 1};
  if (x.size() > 1) mask.columns = static_cast<size_t>(x.back());
  if (x.size() > 2) mask.rows = static_cast<size_t>(x[x.size() - 2]);
  for (size_t axis = 1; axis + 2 < x.size(); ++axis) mask.planes *= static_cast<size_t>(x[axis]);
  return mask;
}

void require_places(const DropoutMask& mask) {
  require(mask.columns <= 1 << 18 && mask.rows <= 1 << 16 && mask.planes <= 1 << 16,
          "a sample may have 2^18 columns, 2^16 rows and 2^16 planes of them at most");
}

float dropout_ratio(const Attributes& attributes) {
  const float ratio = attributes.number("ratio", 0.5f);
  require(ratio >= 0 && ratio < 1, "ratio is " + std::to_string(ratio) + "; it must be in [0, 1)");
  return ratio;
}

std::unique_ptr<Operator> dropout(const char* name, const char* input, const char* output) {
  return std::make_unique<Operator>(
      name, std::vector<Port>{{input, kFloat}, {"rng", kInt64}, {"training", DType::kBool}},
      std::vector<Port>{{output, kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require(!in[0].empty(), "the input is a scalar; its first axis is the batch");
        require_same("rng", in[1], "2 + the batch", Shape{2 + in[0][0]});
        require_flag("training", in[2]);
        require_places(dropout_mask(nullptr, 0, 0, in[0]));
        return {in[0]};
      },
      [](const Attributes& attributes) -> Kernel {
        const float ratio = dropout_ratio(attributes);
        const auto stream = static_cast<uint32_t>(attributes.integer("stream", 0));
        return [ratio, stream](Call& call) {
          const size_t count = element_count(call.shape(0));
          const auto* x = call.input<float>(0);
          const DropoutMask mask =
              dropout_mask(call.input<int64_t>(1), stream, ratio, call.shape(0));
          const bool training = *call.input<uint8_t>(2) != 0;
          auto* y = call.output<float>(0);
          if (!training) {
            if (y == x) return;
            call.split(count, 1,
                       [&](size_t begin, size_t end) { std::copy(x + begin, x + end, y + begin); });
            return;
          }
          call.split(count, kPhiloxCost, [&](size_t begin, size_t end) {
            elementwise_kernels().dropout(x, y, mask, begin, end);
          });
        };
      });
}

// What Dropout keeps, for graphs whose arithmetic runs where our kernels do not. Without shapes:
// they depend on attributes.
std::unique_ptr<Operator> dropout_kept() {
  return std::make_unique<Operator>(
      "DropoutMask", std::vector<Port>{{"rng", kInt64}}, std::vector<Port>{{"kept", DType::kBool}},
      Reuse::kNone, nullptr, [](const Attributes& attributes) -> Kernel {
        const float ratio = dropout_ratio(attributes);
        const auto stream = static_cast<uint32_t>(attributes.integer("stream", 0));
        const Shape sample{attributes.integer("planes", 1), attributes.integer("rows", 1),
                           attributes.integer("columns", 1)};
        for (const int64_t extent : sample)
          require(extent >= 0, "planes, rows and columns must not be negative");
        return [ratio, stream, sample](Call& call) {
          require(call.shape(0).size() == 1 && call.shape(0)[0] >= 2,
                  "rng is " + dimensions_text(call.shape(0)) + "; it must be 2 + the batch");
          const Shape shape{call.shape(0)[0] - 2, sample[0], sample[1], sample[2]};
          const DropoutMask mask = dropout_mask(call.input<int64_t>(0), stream, ratio, shape);
          require_places(mask);
          auto* kept = call.output<uint8_t>(0, shape);
          call.split(element_count(shape), kPhiloxCost, [&](size_t begin, size_t end) {
            elementwise_kernels().dropout_kept(kept, mask, begin, end);
          });
        };
      });
}

}  // namespace

void add_elementwise_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "Accumulate",
      std::vector<Port>{{"grad", kFloat},
                        {"buffer", kFloat},
                        {"first", DType::kInt32},
                        {"after", DType::kInt32, true}},
      std::vector<Port>{kToken}, Reuse::kNone,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("grad", in[0], "buffer", in[1]);
        require_flag("first", in[2]);
        return {kTokenShape};
      },
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const auto* grad = call.input<float>(0);
          auto* buffer = call.in_place<float>(1);
          const bool first = *call.input<int32_t>(2) != 0;
          call.split(element_count(call.shape(0)), 1, [&](size_t begin, size_t end) {
            elementwise_kernels().accumulate(grad, buffer, first, begin, end);
          });
          *call.output<int32_t>(0) = 0;
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "EmbeddingGradAccumulate",
      std::vector<Port>{
          {"dY", kFloat}, {"indices", kInt64}, {"buffer", kFloat}, {"first", DType::kInt32}},
      std::vector<Port>{kToken}, Reuse::kNone,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require(in[2].size() == 2, "buffer is " + dimensions_text(in[2]) + "; it must be [V, D]");
        Shape expected = in[1];
        expected.push_back(in[2][1]);
        require_same("dY", in[0], "indices with D appended", expected);
        require_flag("first", in[3]);
        return {kTokenShape};
      },
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const size_t T = element_count(call.shape(1));
          const auto V = static_cast<size_t>(call.shape(2)[0]);
          const auto D = static_cast<size_t>(call.shape(2)[1]);
          const auto* dy = call.input<float>(0);
          const auto* indices = call.input<int64_t>(1);
          auto* buffer = call.in_place<float>(2);
          const bool first = *call.input<int32_t>(3) != 0;
          check_indices(indices, T, V);
          call.split_columns(D, T + (first ? V : 0), [&](size_t begin, size_t end) {
            elementwise_kernels().embedding_grad(dy, indices, buffer, T, V, D, first, begin, end);
          });
          *call.output<int32_t>(0) = 0;
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "RotaryEmbedding", std::vector<Port>{{"X", kFloat}, {"cos", kFloat}, {"sin", kFloat}},
      std::vector<Port>{{"Y", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require(in[0].size() == 4, "X is " + dimensions_text(in[0]) + "; it must be [B, H, S, D]");
        require(in[0][3] % 2 == 0, "D is " + std::to_string(in[0][3]) + "; it must be even");
        const Shape table{in[0][2], in[0][3] / 2};
        require_same("cos", in[1], "[S, D/2] of X", table);
        require_same("sin", in[2], "[S, D/2] of X", table);
        return {in[0]};
      },
      [](const Attributes& attributes) -> Kernel {
        const bool inverse = attributes.integer("inverse", 0) != 0;
        return [inverse](Call& call) {
          const Shape& shape = call.shape(0);
          const auto S = static_cast<size_t>(shape[2]);
          const auto D = static_cast<size_t>(shape[3]);
          const auto* x = call.input<float>(0);
          const auto* cos = call.input<float>(1);
          const auto* sin = call.input<float>(2);
          auto* y = call.output<float>(0);
          call.split(element_count(rows_shape(shape)), D, [&](size_t begin, size_t end) {
            elementwise_kernels().rotary(x, cos, sin, y, S, D, inverse, begin, end);
          });
        };
      }));

  operators.push_back(dropout("Dropout", "X", "Y"));
  operators.push_back(dropout("DropoutGrad", "dY", "dX"));
  operators.push_back(dropout_kept());
}

}  // namespace dsjs::ort
