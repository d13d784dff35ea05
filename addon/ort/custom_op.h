// Custom operators: what one is, and what its kernel sees of a call.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/parallel.h"
#include "ort/ort_api.h"

namespace dsjs::ort {

using Shape = std::vector<int64_t>;

// Product of the dimensions; 1 for a scalar.
size_t element_count(const Shape& shape);
// X without its last axis: one value per row.
Shape rows_shape(const Shape& shape);
// Length of the last axis; 1 for a scalar.
size_t last_axis(const Shape& shape);

// Throws INVALID_ARGUMENT with `message` unless `condition`.
void require(bool condition, const std::string& message);
// Throws INVALID_ARGUMENT naming both unless the shapes are equal.
void require_same(const char* a, const Shape& shape_a, const char* b, const Shape& shape_b);

// A port's type that the kernel finds out (Call::dtype): any.
constexpr DType kAnyType{0};

struct Port {
  const char* name;
  DType dtype;
  bool optional = false;
};

// A node's attributes, read once when its kernel is made.
class Attributes {
 public:
  explicit Attributes(const OrtKernelInfo* info) : info_(info) {}
  int64_t integer(const char* name, int64_t fallback) const;
  float number(const char* name, float fallback) const;
  std::string text(const char* name, const std::string& fallback) const;

 private:
  const OrtKernelInfo* info_;
};

// One call of a kernel. Valid while the kernel runs.
class Call {
 public:
  Call(OrtKernelContext* context, const struct Operator& op);

  bool has(size_t input) const { return inputs_[input] != nullptr; }
  const Shape& shape(size_t input) const { return shapes_[input]; }
  const std::vector<Shape>& shapes() const { return shapes_; }
  DType dtype(size_t input) const { return dtypes_[input]; }
  // Null when the optional input is absent.
  template <class T>
  const T* input(size_t index) const {
    return static_cast<const T*>(inputs_[index]);
  }
  // An input that the operator writes: bound memory that nothing else in the graph writes.
  template <class T>
  T* in_place(size_t index) const {
    return static_cast<T*>(inputs_[index]);
  }
  // Memory of the output, of the shape that the operator's `shapes` says.
  template <class T>
  T* output(size_t index) {
    return static_cast<T*>(output_memory(index, output_shapes_[index]));
  }
  // Of a shape that depends on attributes: the operator has no `shapes`.
  template <class T>
  T* output(size_t index, const Shape& shape) {
    return static_cast<T*>(output_memory(index, shape));
  }
  // Memory for this call only, from the workspace of the engine that runs it.
  template <class T>
  T* scratch(size_t count) {
    return static_cast<T*>(scratch_memory(count * sizeof(T)));
  }

  // The session's thread pool.
  Parallel& pool() { return pool_; }
  // Calls fn(i) for i < count on the session's thread pool; fn must not throw.
  template <class F>
  void parallel(size_t count, F&& fn) {
    pool_.run(count, std::forward<F>(fn));
  }
  // Calls fn(begin, end) over pieces of [0, total), where one item costs about `item_cost` elements
  // of simple arithmetic. The partition depends on the arguments alone. fn must not throw.
  template <class F>
  void split(size_t total, size_t item_cost, F&& fn) {
    const size_t piece = piece_size(total, item_cost);
    if (piece >= total) {
      if (total > 0) fn(size_t{0}, total);
      return;
    }
    parallel((total + piece - 1) / piece, [&](size_t i) {
      const size_t begin = i * piece;
      fn(begin, begin + piece < total ? begin + piece : total);
    });
  }
  // As split over the D columns of a matrix of `rows` rows; pieces begin on cache lines.
  template <class F>
  void split_columns(size_t D, size_t rows, F&& fn) {
    constexpr size_t kLine = 16;
    split((D + kLine - 1) / kLine, rows * kLine,
          [&](size_t begin, size_t end) { fn(begin * kLine, end * kLine < D ? end * kLine : D); });
  }

 private:
  class Pool : public Parallel {
   public:
    explicit Pool(OrtKernelContext* context) : context_(context) {}
    size_t threads() const override;

   private:
    void run_calls(size_t count, void (*fn)(void*, size_t), void* user) override;
    OrtKernelContext* context_;
  };

  static size_t piece_size(size_t total, size_t item_cost);
  void* output_memory(size_t index, const Shape& shape);
  void* scratch_memory(size_t bytes);

  OrtKernelContext* context_;
  Pool pool_;
  std::vector<void*> inputs_;
  std::vector<Shape> shapes_;
  std::vector<DType> dtypes_;
  std::vector<Shape> output_shapes_;
  std::vector<std::unique_ptr<void, void (*)(void*)>> scratch_;
};

using Kernel = std::function<void(Call&)>;

// How many threads the session has whose run is on this thread; the runtime does not tell its
// operators.
class RunThreads {
 public:
  explicit RunThreads(int threads);
  ~RunThreads();
  RunThreads(const RunThreads&) = delete;
  RunThreads& operator=(const RunThreads&) = delete;

 private:
  int previous_;
};

// Which input's memory the runtime may reuse for output 0 when that input is not needed later.
enum class Reuse { kNone, kInput0, kInput1 };

// An operator of docs/operators.md. Lives as long as the process: the runtime keeps pointers to it.
struct Operator : OrtCustomOp {
  // `shapes` gives the output shapes from the input shapes (empty for an absent input) and throws
  // INVALID_ARGUMENT when they do not fit; it is null where they depend on attributes. `make` gives
  // a node's kernel from its attributes.
  Operator(const char* name, std::vector<Port> inputs, std::vector<Port> outputs, Reuse reuse,
           std::function<std::vector<Shape>(const std::vector<Shape>&)> shapes,
           std::function<Kernel(const Attributes&)> make);

  const char* name;
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::function<std::vector<Shape>(const std::vector<Shape>&)> shapes;
  std::function<Kernel(const Attributes&)> make;
};

// The port and the shape of a `token` output: it carries no data and keeps in-place work from being
// pruned.
inline constexpr Port kToken{"token", DType::kInt32};
inline const Shape kTokenShape{1};

using Operators = std::vector<std::unique_ptr<Operator>>;

// The families of operators, each in its own file.
void add_activation_operators(Operators& operators);
void add_normalization_operators(Operators& operators);
void add_softmax_operators(Operators& operators);
void add_elementwise_operators(Operators& operators);
void add_gemm_operators(Operators& operators);
void add_attention_operators(Operators& operators);

// A domain `deepspeed` with all of them. Lives as long as the process.
OrtCustomOpDomain* operator_domain();

}  // namespace dsjs::ort
