#include "ort/custom_op.h"

#include <algorithm>
#include <climits>
#include <exception>
#include <numeric>

#include "core/error.h"
#include "ort/allocator.h"
#include "ort/library.h"

namespace dsjs::ort {
namespace {

constexpr int kInvalidArgument = 2;  // OrtErrorCode

thread_local int run_threads = 1;

const Operator& self_of(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

// A node's kernel, as the runtime holds it.
struct Node {
  const Operator* op;
  Kernel kernel;
};

// Runs `body` and turns what it throws into a status: exceptions must not cross the runtime.
template <class Body>
OrtStatus* guarded(const Operator& op, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    const std::string message = std::string("deepspeed.") + op.name + ": " + error.what();
    return api::CreateStatus(kInvalidArgument, message.c_str());
  }
}

// Tells the runtime the output shapes when every input shape is known, so that it can plan memory.
void infer_shapes(const Operator& op, OrtShapeInferContext* context) {
  size_t given = 0;
  check(api::ShapeInferContext_GetInputCount(context, &given), "infer shapes");
  std::vector<Shape> shapes(op.inputs.size());
  for (size_t i = 0; i < std::min(given, shapes.size()); i++) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api::ShapeInferContext_GetInputTypeShape(context, i, &info), "infer shapes");
    if (!info) continue;
    shapes[i] = dimensions(info);
    if (std::any_of(shapes[i].begin(), shapes[i].end(), [](int64_t d) { return d < 0; })) return;
  }
  const auto results = op.shapes(shapes);
  for (size_t i = 0; i < results.size(); i++) {
    OrtTensorTypeAndShapeInfo* made = nullptr;
    check(api::CreateTensorTypeAndShapeInfo(&made), "infer shapes");
    const Owned<OrtTensorTypeAndShapeInfo> info(made);
    check(api::SetTensorElementType(made, static_cast<int>(op.outputs[i].dtype)), "infer shapes");
    check(api::SetDimensions(made, results[i].data(), results[i].size()), "infer shapes");
    check(api::ShapeInferContext_SetOutputTypeShape(context, i, made), "infer shapes");
  }
}

// The runtime's callback for reuse has no operator argument: one function for each case.
template <int kInput>
size_t reuse_map(int** inputs, int** outputs) {
  static int input = kInput;
  static int output = 0;
  *inputs = &input;
  *outputs = &output;
  return 1;
}

}  // namespace

size_t element_count(const Shape& shape) {
  return static_cast<size_t>(
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
}

Shape rows_shape(const Shape& shape) {
  return shape.empty() ? shape : Shape(shape.begin(), shape.end() - 1);
}

size_t last_axis(const Shape& shape) {
  return shape.empty() ? 1 : static_cast<size_t>(shape.back());
}

void require(bool condition, const std::string& message) {
  if (!condition) throw EngineError("INVALID_ARGUMENT", message);
}

void require_same(const char* a, const Shape& shape_a, const char* b, const Shape& shape_b) {
  if (shape_a != shape_b)
    throw EngineError("INVALID_ARGUMENT", std::string(a) + " is " + dimensions_text(shape_a) +
                                              " and " + b + " is " + dimensions_text(shape_b) +
                                              "; they must be the same");
}

int64_t Attributes::integer(const char* name, int64_t fallback) const {
  int64_t value = 0;
  OrtStatus* status = api::KernelInfoGetAttribute_int64(info_, name, &value);
  if (!status) return value;
  api::ReleaseStatus(status);  // the attribute is absent
  return fallback;
}

float Attributes::number(const char* name, float fallback) const {
  float value = 0;
  OrtStatus* status = api::KernelInfoGetAttribute_float(info_, name, &value);
  if (!status) return value;
  api::ReleaseStatus(status);
  return fallback;
}

std::string Attributes::text(const char* name, const std::string& fallback) const {
  size_t size = 0;
  OrtStatus* status = api::KernelInfoGetAttribute_string(info_, name, nullptr, &size);
  if (status) {
    api::ReleaseStatus(status);
    return fallback;
  }
  std::string value(size, '\0');
  check(api::KernelInfoGetAttribute_string(info_, name, value.data(), &size), "read an attribute");
  value.resize(size > 0 ? size - 1 : 0);  // without the terminating zero
  return value;
}

Call::Call(OrtKernelContext* context, const Operator& op)
    : context_(context),
      pool_(context),
      inputs_(op.inputs.size()),
      shapes_(op.inputs.size()),
      dtypes_(op.inputs.size()) {
  size_t given = 0;
  check(api::KernelContext_GetInputCount(context, &given), "read inputs");
  for (size_t i = 0; i < std::min(given, inputs_.size()); i++) {
    const OrtValue* value = nullptr;
    check(api::KernelContext_GetInput(context, i, &value), "read inputs");
    if (!value) continue;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api::GetTensorTypeAndShape(value, &info), "read inputs");
    const Owned<OrtTensorTypeAndShapeInfo> owned(info);
    shapes_[i] = dimensions(info);
    int dtype = 0;
    check(api::GetTensorElementType(info, &dtype), "read inputs");
    dtypes_[i] = static_cast<DType>(dtype);
    check(api::GetTensorMutableData(const_cast<OrtValue*>(value), &inputs_[i]), "read inputs");
  }
  if (op.shapes) output_shapes_ = op.shapes(shapes_);
}

size_t Call::piece_size(size_t total, size_t item_cost) {
  // A piece is worth a hand-over to another thread (some microseconds) from about this much work
  // on, and more pieces than this balance no better.
  constexpr size_t kPieceCost = 16'384;
  constexpr size_t kMaxPieces = 64;
  // Pieces of single elements end on cache lines.
  constexpr size_t kLine = 16;
  const size_t by_cost = (kPieceCost + item_cost - 1) / std::max<size_t>(item_cost, 1);
  const size_t piece = std::max(by_cost, (total + kMaxPieces - 1) / kMaxPieces);
  return item_cost < kLine ? (piece + kLine - 1) / kLine * kLine : piece;
}

size_t Call::Pool::threads() const { return static_cast<size_t>(run_threads); }

void Call::Pool::run_calls(size_t count, void (*fn)(void*, size_t), void* user) {
  check(api::KernelContext_ParallelFor(context_, fn, count, 0, user), "run in parallel");
}

void* Call::output_memory(size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api::KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value),
        "make an output");
  if (!value) return nullptr;
  void* memory = nullptr;
  check(api::GetTensorMutableData(value, &memory), "make an output");
  return memory;
}

// The runtime's own scratch buffers are never freed on a processor: it leaves that to streams.
void* Call::scratch_memory(size_t bytes) {
  void* memory = workspace_allocator()->Alloc(nullptr, bytes);
  if (!memory) throw EngineError("OUT_OF_MEMORY", "no memory for the operator's scratch");
  scratch_.emplace_back(memory, &WorkspacePool::give_back);
  return memory;
}

RunThreads::RunThreads(int threads) : previous_(run_threads) { run_threads = threads; }

RunThreads::~RunThreads() { run_threads = previous_; }

Operator::Operator(const char* operator_name, std::vector<Port> input_ports,
                   std::vector<Port> output_ports, Reuse reuse,
                   std::function<std::vector<Shape>(const std::vector<Shape>&)> shape_function,
                   std::function<Kernel(const Attributes&)> make_kernel)
    : OrtCustomOp{},
      name(operator_name),
      inputs(std::move(input_ports)),
      outputs(std::move(output_ports)),
      shapes(std::move(shape_function)),
      make(std::move(make_kernel)) {
  version = api::kApiVersion;
  GetName = [](const OrtCustomOp* op) { return self_of(op).name; };
  GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  GetInputType = [](const OrtCustomOp* op, size_t i) {
    return static_cast<int>(self_of(op).inputs[i].dtype);
  };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self_of(op).inputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t i) {
    return static_cast<int>(self_of(op).outputs[i].dtype);
  };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self_of(op).outputs.size(); };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return self_of(op).inputs[i].optional ? 1 : 0;
  };
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return self_of(op).outputs[i].optional ? 1 : 0;
  };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
  CreateKernelV2 = [](const OrtCustomOp* op, const void*, const OrtKernelInfo* info,
                      void** kernel) {
    return guarded(self_of(op), [&] {
      *kernel = new Node{&self_of(op), self_of(op).make(Attributes(info))};
    });
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& node = *static_cast<const Node*>(kernel);
    return guarded(*node.op, [&] {
      Call call(context, *node.op);
      node.kernel(call);
    });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  if (shapes) {
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      return guarded(self_of(op), [&] { infer_shapes(self_of(op), context); });
    };
  }
  if (reuse != Reuse::kNone) {
    GetMayInplace = reuse == Reuse::kInput0 ? reuse_map<0> : reuse_map<1>;
    ReleaseMayInplace = [](int*, int*) {};
  }
}

OrtCustomOpDomain* operator_domain() {
  static OrtCustomOpDomain* const domain = [] {
    static Operators operators;
    add_activation_operators(operators);
    add_normalization_operators(operators);
    add_softmax_operators(operators);
    add_elementwise_operators(operators);
    add_gemm_operators(operators);
    add_attention_operators(operators);
    OrtCustomOpDomain* made = nullptr;
    check(api::CreateCustomOpDomain("deepspeed", &made), "create the operator domain");
    for (const auto& op : operators)
      check(api::CustomOpDomain_Add(made, op.get()), "register an operator");
    return made;
  }();
  return domain;
}

}  // namespace dsjs::ort
