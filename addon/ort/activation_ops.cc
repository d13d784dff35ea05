// Gelu, GeluGrad, Silu, SiluGrad, SiluMul, SiluMulGrad.
#include "core/error.h"
#include "kernels/activation.h"
#include "ort/custom_op.h"

namespace dsjs::ort {
namespace {

constexpr DType kFloat = DType::kFloat32;
// About what one element costs next to an addition.
constexpr size_t kCost = 8;

GeluForm gelu_form(const Attributes& attributes) {
  const std::string form = attributes.text("approximate", "none");
  require(form == "none" || form == "tanh",
          "approximate is '" + form + "'; it must be 'none' or 'tanh'");
  return form == "tanh" ? GeluForm::kTanh : GeluForm::kErf;
}

std::vector<Shape> same_as_input(const std::vector<Shape>& in) { return {in[0]}; }

std::vector<Shape> same_as_both(const std::vector<Shape>& in) {
  require_same("the first input", in[0], "the second", in[1]);
  return {in[0]};
}

}  // namespace

void add_activation_operators(Operators& operators) {
  operators.push_back(std::make_unique<Operator>(
      "Gelu", std::vector<Port>{{"X", kFloat}}, std::vector<Port>{{"Y", kFloat}}, Reuse::kInput0,
      same_as_input, [](const Attributes& attributes) -> Kernel {
        const GeluForm form = gelu_form(attributes);
        return [form](Call& call) {
          const auto* x = call.input<float>(0);
          auto* y = call.output<float>(0);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().gelu(x, y, form, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "GeluGrad", std::vector<Port>{{"dY", kFloat}, {"X", kFloat}},
      std::vector<Port>{{"dX", kFloat}}, Reuse::kInput0, same_as_both,
      [](const Attributes& attributes) -> Kernel {
        const GeluForm form = gelu_form(attributes);
        return [form](Call& call) {
          const auto* dy = call.input<float>(0);
          const auto* x = call.input<float>(1);
          auto* dx = call.output<float>(0);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().gelu_grad(dy, x, dx, form, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "Silu", std::vector<Port>{{"X", kFloat}}, std::vector<Port>{{"Y", kFloat}}, Reuse::kInput0,
      same_as_input, [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const auto* x = call.input<float>(0);
          auto* y = call.output<float>(0);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().silu(x, y, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "SiluGrad", std::vector<Port>{{"dY", kFloat}, {"X", kFloat}},
      std::vector<Port>{{"dX", kFloat}}, Reuse::kInput0, same_as_both,
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const auto* dy = call.input<float>(0);
          const auto* x = call.input<float>(1);
          auto* dx = call.output<float>(0);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().silu_grad(dy, x, dx, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "SiluMul", std::vector<Port>{{"gate", kFloat}, {"up", kFloat}},
      std::vector<Port>{{"Y", kFloat}}, Reuse::kInput0, same_as_both,
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const auto* gate = call.input<float>(0);
          const auto* up = call.input<float>(1);
          auto* y = call.output<float>(0);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().silu_mul(gate, up, y, begin, end);
          });
        };
      }));

  operators.push_back(std::make_unique<Operator>(
      "SiluMulGrad", std::vector<Port>{{"dY", kFloat}, {"gate", kFloat}, {"up", kFloat}},
      std::vector<Port>{{"dGate", kFloat}, {"dUp", kFloat}}, Reuse::kInput0,
      [](const std::vector<Shape>& in) -> std::vector<Shape> {
        require_same("dY", in[0], "gate", in[1]);
        require_same("gate", in[1], "up", in[2]);
        return {in[1], in[1]};
      },
      [](const Attributes&) -> Kernel {
        return [](Call& call) {
          const auto* dy = call.input<float>(0);
          const auto* gate = call.input<float>(1);
          const auto* up = call.input<float>(2);
          auto* dgate = call.output<float>(0);
          auto* dup = call.output<float>(1);
          call.split(element_count(call.shape(0)), kCost, [&](size_t begin, size_t end) {
            activation_kernels().silu_mul_grad(dy, gate, up, dgate, dup, begin, end);
          });
        };
      }));
}

}  // namespace dsjs::ort
