// LayerNormalization, RMSNormalization and their gradients.
#include "kernels/normalization.h"
#include "ort/custom_op.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;
// Passes over a row, as a multiple of its length.
constexpr size_t kPasses = 4;

void require_gamma(const Shape& x, const char* name, const Shape& gamma) {
  require(!x.empty(), "X is a scalar; it needs a last axis");
  require_same(name, gamma, "X's last axis", Shape{x.back()});
}

// The gradient kernels sum over rows in parts whose bounds depend on the row count alone, then add
// the parts in order: the sums do not depend on the number of threads. `part(p, begin, end, sums)`
// writes the sums of `outputs.size()` gradients of D columns, gradient g of part p at sums[g][p·D].
template <class Part>
void sum_over_rows(Call& call, size_t rows, size_t D, const std::vector<float*>& outputs,
                   Part&& part) {
  const size_t parts = norm_parts(rows);
  float* scratch = call.scratch<float>(outputs.size() * parts * D);
  call.parallel(parts, [&](size_t p) {
    const RowRange range = norm_part_rows(rows, p);
    part(range, scratch + p * D, scratch + (parts + p) * D);
  });
  for (size_t g = 0; g < outputs.size(); g++)
    call.split_columns(D, parts, [&](size_t begin, size_t end) {
      normalization_kernels().sum_parts(scratch + g * parts * D, parts, D, outputs[g], begin, end);
    });
}

}  // namespace

void add_normalization_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "LayerNormalization",
      std::vector<Port>{{"X", kFloat}, {"gamma", kFloat}, {"beta", kFloat, true}},
      std::vector<Port>{{"Y", kFloat}, {"mean", kFloat}, {"rstd", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_gamma(in[0], "gamma", in[1]);
        if (!in[2].empty()) require_gamma(in[0], "beta", in[2]);
        return {in[0], rows_shape(in[0]), rows_shape(in[0])};
      },
      [](const Attributes& attributes) -> Kernel {
        const float epsilon = attributes.number("epsilon", 1e-5f);
        return [epsilon](Call& call) {
          const size_t D = last_axis(call.shape(0));
          const size_t rows = element_count(rows_shape(call.shape(0)));
          const auto* x = call.input<float>(0);
          const auto* gamma = call.input<float>(1);
          const auto* beta = call.input<float>(2);
          auto* y = call.output<float>(0);
          auto* mean = call.output<float>(1);
          auto* rstd = call.output<float>(2);
          call.split(rows, D * kPasses, [&](size_t begin, size_t end) {
            normalization_kernels().layer_norm(x, gamma, beta, y, mean, rstd, D, epsilon, begin,
                                               end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "LayerNormalizationGrad",
      std::vector<Port>{{"dY", kFloat},
                        {"X", kFloat},
                        {"gamma", kFloat},
                        {"mean", kFloat},
                        {"rstd", kFloat},
                        {"residual", kFloat, true}},
      std::vector<Port>{{"dX", kFloat}, {"dGamma", kFloat}, {"dBeta", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("dY", in[0], "X", in[1]);
        require_gamma(in[1], "gamma", in[2]);
        require_same("mean", in[3], "X without its last axis", rows_shape(in[1]));
        require_same("rstd", in[4], "X without its last axis", rows_shape(in[1]));
        if (!in[5].empty()) require_same("residual", in[5], "X", in[1]);
        return {in[1], in[2], in[2]};
      },
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const size_t D = last_axis(call.shape(1));
          const auto* dy = call.input<float>(0);
          const auto* x = call.input<float>(1);
          const auto* gamma = call.input<float>(2);
          const auto* mean = call.input<float>(3);
          const auto* rstd = call.input<float>(4);
          const auto* residual = call.input<float>(5);
          auto* dx = call.output<float>(0);
          const std::vector<float*> sums{call.output<float>(1), call.output<float>(2)};
          sum_over_rows(call, element_count(call.shape(3)), D, sums,
                        [&](RowRange rows, float* dgamma, float* dbeta) {
                          normalization_kernels().layer_norm_grad(dy, x, gamma, mean, rstd,
                                                                  residual, dx, dgamma, dbeta, D,
                                                                  rows.begin, rows.end);
                        });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "RMSNormalization", std::vector<Port>{{"X", kFloat}, {"gamma", kFloat}},
      std::vector<Port>{{"Y", kFloat}, {"rstd", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_gamma(in[0], "gamma", in[1]);
        return {in[0], rows_shape(in[0])};
      },
      [](const Attributes& attributes) -> Kernel {
        const float epsilon = attributes.number("epsilon", 1e-5f);
        return [epsilon](Call& call) {
          const size_t D = last_axis(call.shape(0));
          const size_t rows = element_count(rows_shape(call.shape(0)));
          const auto* x = call.input<float>(0);
          const auto* gamma = call.input<float>(1);
          auto* y = call.output<float>(0);
          auto* rstd = call.output<float>(1);
          call.split(rows, D * kPasses, [&](size_t begin, size_t end) {
            normalization_kernels().rms_norm(x, gamma, y, rstd, D, epsilon, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "RMSNormalizationGrad",
      std::vector<Port>{{"dY", kFloat},
                        {"X", kFloat},
                        {"gamma", kFloat},
                        {"rstd", kFloat},
                        {"residual", kFloat, true}},
      std::vector<Port>{{"dX", kFloat}, {"dGamma", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("dY", in[0], "X", in[1]);
        require_gamma(in[1], "gamma", in[2]);
        require_same("rstd", in[3], "X without its last axis", rows_shape(in[1]));
        if (!in[4].empty()) require_same("residual", in[4], "X", in[1]);
        return {in[1], in[2]};
      },
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const size_t D = last_axis(call.shape(1));
          const auto* dy = call.input<float>(0);
          const auto* x = call.input<float>(1);
          const auto* gamma = call.input<float>(2);
          const auto* rstd = call.input<float>(3);
          const auto* residual = call.input<float>(4);
          auto* dx = call.output<float>(0);
          sum_over_rows(call, element_count(call.shape(3)), D, {call.output<float>(1)},
                        [&](RowRange rows, float* dgamma, float*) {
                          normalization_kernels().rms_norm_grad(dy, x, gamma, rstd, residual, dx,
                                                                dgamma, D, rows.begin, rows.end);
                        });
        };
      }));
}

}  // namespace dsjs::ort
