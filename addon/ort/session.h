// Compiled graphs, and graphs bound to memory.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "ort/allocator.h"
#include "ort/environment.h"
#include "ort/library.h"

namespace dsjs::ort {

struct SessionConfig {
  std::string name;
  int threads = 1;
  // What computes; empty: the processor. See execution_providers().
  std::string provider;
  // 0 none, 1 basic, 2 extended, 99 all: the runtime's graph optimizations.
  int optimization_level = 2;
  // Plan one block for all intermediate tensors of a run instead of one block each.
  bool memory_pattern = false;
  // Where not empty, the runtime writes a JSON profile `<prefix>_<time>.json` when the session
  // ends.
  std::string profile_prefix;
};

// An input or output of a model.
struct ModelPort {
  std::string name;
  DType dtype;
  std::vector<int64_t> dims;  // -1 where the model leaves a dimension open
};

// A model that ONNX Runtime has compiled. Identical segments share one.
class Session {
 public:
  // The model's bytes are copied. Throws ORT_FAILED with the session's name and the runtime's text,
  // EXECUTION_PROVIDER where the provider cannot be had.
  Session(const Environment& environment, const void* model, size_t bytes, SessionConfig config,
          std::shared_ptr<WorkspacePool> pool);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::string& name() const { return config_.name; }
  const std::vector<ModelPort>& inputs() const { return inputs_; }
  const std::vector<ModelPort>& outputs() const { return outputs_; }

 private:
  friend class Instance;
  SessionConfig config_;
  std::shared_ptr<WorkspacePool> pool_;
  Owned<OrtSession> session_;
  std::vector<ModelPort> inputs_;
  std::vector<ModelPort> outputs_;
};

// Memory for one input or output. `offset` in bytes.
struct BoundTensor {
  std::string name;
  std::shared_ptr<Buffer> buffer;
  size_t offset;
  DType dtype;
  std::vector<int64_t> dims;
};

// A session with every input and output bound to engine memory: running it on the processor copies
// nothing, on another provider what its nodes read and write, each run. Holds its session and its
// buffers. Each instance of a shared session has memory of its own.
class Instance {
 public:
  // Throws INVALID_ARGUMENT for an input or output that the session does not have, that is missing
  // or bound twice, whose type or shape is not the model's, or whose memory is too small.
  Instance(std::shared_ptr<Session> session, std::vector<BoundTensor> inputs,
           std::vector<BoundTensor> outputs);
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  const std::string& name() const { return session_->name(); }
  // Blocks. Throws ORT_FAILED with the session's name and the runtime's text. `options` may end a
  // run on the processor before its time. One on a device comes to its end, which waits for the
  // device: work that is left there would go on in a driver that the process takes down.
  void run(const OrtRunOptions* options);

 private:
  // Values over engine memory, by the names of the model's ports.
  struct Values {
    std::vector<std::string> names;
    std::vector<Owned<OrtValue>> values;
  };

  Values values_of(std::vector<ModelPort> missing, std::vector<BoundTensor>& tensors, bool input);
  void bind();
  void run_on_provider();

  std::shared_ptr<Session> session_;
  std::vector<std::shared_ptr<Buffer>> memory_;
  Values inputs_;
  Values outputs_;
  // Of the processor alone: a binding would copy inputs to a device once, when they are bound.
  Owned<OrtIoBinding> binding_;
};

}  // namespace dsjs::ort
