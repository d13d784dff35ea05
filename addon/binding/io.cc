// Files, swap files, checksums, fault points. File work runs on libuv's worker threads; what it
// reads and writes is pinned until the promise settles, and let go on the JavaScript thread.
#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/queue.h"
#include "io/crc32c.h"
#include "io/fault.h"
#include "io/files.h"
#include "io/read_file.h"
#include "register.h"
#include "util.h"

namespace dsjs::binding {
namespace {

// `work` runs off the JavaScript thread and returns how to make the promise's value back on it.
class IoWork final : public Napi::AsyncWorker {
 public:
  using Result = std::function<Napi::Value(Napi::Env)>;

  static Napi::Promise start(Napi::Env env, std::vector<Bytes> pinned,
                             std::function<Result()> work) {
    auto* self = new IoWork(env, std::move(pinned), std::move(work));
    const Napi::Promise promise = self->deferred_.Promise();
    self->Queue();  // deletes itself when done
    return promise;
  }

 protected:
  void Execute() override {
    try {
      result_ = work_();
    } catch (...) {
      error_ = std::current_exception();
    }
    work_ = nullptr;
  }

  void OnOK() override {
    if (error_)
      deferred_.Reject(to_js_error(Env(), error_).Value());
    else
      deferred_.Resolve(result_(Env()));
  }

 private:
  IoWork(Napi::Env env, std::vector<Bytes> pinned, std::function<Result()> work)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        pinned_(std::move(pinned)),
        work_(std::move(work)) {}

  Napi::Promise::Deferred deferred_;
  std::vector<Bytes> pinned_;
  std::function<Result()> work_;
  Result result_;
  std::exception_ptr error_;
};

Napi::Value undefined(Napi::Env env) { return env.Undefined(); }

std::string path_arg(const Napi::Value& value) {
  if (!value.IsString()) throw EngineError("INVALID_ARGUMENT", "path must be a string");
  std::string path = value.As<Napi::String>();
  if (path.empty() || path.find('\0') != std::string::npos)
    throw EngineError("INVALID_ARGUMENT", "path is empty or contains a zero byte");
  return path;
}

// { file: SwapFile, byteOffset, bytes }, in place of memory. `file` is null where it is memory.
struct SwapRange {
  std::shared_ptr<aio::SwapFile> file;
  uint64_t offset = 0;
  size_t bytes = 0;
};

SwapRange swap_range_of(const Napi::Value& value) {
  if (!value.IsObject() || !is_swap_file(value.As<Napi::Object>().Get("file"))) return {};
  const auto fields = value.As<Napi::Object>();
  return {unwrap_swap_file(fields.Get("file")), size_field(fields, "byteOffset"),
          size_field(fields, "bytes")};
}

// FilePiece[] of contract.ts, added to `pieces`.
void add_pieces(const Napi::Value& value, size_t group, std::vector<io::Piece>& pieces,
                std::vector<Bytes>& pinned) {
  if (!value.IsArray()) throw EngineError("INVALID_ARGUMENT", "pieces must be an array");
  const Napi::Array list = value.As<Napi::Array>();
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const Napi::Value entry = list.Get(index);
    if (!entry.IsObject()) throw EngineError("INVALID_ARGUMENT", "a piece must be an object");
    const Napi::Object piece = entry.As<Napi::Object>();
    const size_t file_offset = size_field(piece, "fileOffset");
    if (const SwapRange range = swap_range_of(piece.Get("source")); range.file) {
      pieces.push_back({file_offset, nullptr, range.bytes,
                        [range](uint64_t offset, void* target, size_t bytes) {
                          range.file->copy_out(range.offset + offset, target, bytes);
                        },
                        group});
      continue;
    }
    Bytes source = pinned_bytes_arg(piece.Get("source"), "source");
    pieces.push_back({file_offset, source.data, source.size, nullptr, group});
    pinned.push_back(std::move(source));
  }
}

Napi::Promise start_writing(Napi::Env env, std::string path, std::vector<io::Piece> pieces,
                            std::vector<Bytes> pinned, std::shared_ptr<io::Checksums> checksums) {
  return IoWork::start(env, std::move(pinned),
                       [path = std::move(path), pieces = std::move(pieces),
                        checksums = std::move(checksums)]() -> IoWork::Result {
                         const io::Written written = io::write_file(path, pieces, *checksums);
                         return [written](Napi::Env env) -> Napi::Value {
                           Napi::Object result = Napi::Object::New(env);
                           result["bytes"] =
                               Napi::Number::New(env, static_cast<double>(written.bytes));
                           result["crc32c"] = io::crc32c_hex(written.crc32c);
                           return result;
                         };
                       });
}

// writeFile(path, pieces)
Napi::Value write_file(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    std::string path = path_arg(call[0]);
    std::vector<io::Piece> pieces;
    std::vector<Bytes> pinned;
    add_pieces(call[1], 0, pieces, pinned);
    return start_writing(env, std::move(path), std::move(pieces), std::move(pinned),
                         std::make_shared<io::Checksums>());
  });
}

// FileTarget[] of contract.ts; what they need is pinned.
std::vector<io::Target> targets_arg(const Napi::Value& value, std::vector<Bytes>& pinned) {
  if (!value.IsArray()) throw EngineError("INVALID_ARGUMENT", "targets must be an array");
  const Napi::Array list = value.As<Napi::Array>();
  std::vector<io::Target> targets;
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const Napi::Value entry = list.Get(index);
    if (!entry.IsObject()) throw EngineError("INVALID_ARGUMENT", "a target must be an object");
    const Napi::Object fields = entry.As<Napi::Object>();
    const size_t file_offset = size_field(fields, "fileOffset");
    if (const SwapRange range = swap_range_of(fields.Get("target")); range.file) {
      targets.push_back({file_offset, nullptr, range.bytes,
                         [range](uint64_t offset, const void* source, size_t bytes) {
                           range.file->copy_in(range.offset + offset, source, bytes);
                         }});
      continue;
    }
    Bytes target = pinned_bytes_arg(fields.Get("target"), "target");
    targets.push_back({file_offset, target.data, target.size});
    pinned.push_back(std::move(target));
  }
  return targets;
}

// readFile(path, targets)
Napi::Value read_file(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    std::string path = path_arg(call[0]);
    std::vector<Bytes> pinned;
    std::vector<io::Target> targets = targets_arg(call[1], pinned);
    return IoWork::start(
        env, std::move(pinned),
        [path = std::move(path), targets = std::move(targets)]() -> IoWork::Result {
          io::read_file(path, targets);
          return undefined;
        });
  });
}

// readWholeFile(path, targets = [])
Napi::Value read_whole_file(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    std::string path = path_arg(call[0]);
    std::vector<Bytes> pinned;
    std::vector<io::Target> targets;
    if (!call[1].IsUndefined()) targets = targets_arg(call[1], pinned);
    return IoWork::start(
        env, std::move(pinned),
        [path = std::move(path), targets = std::move(targets)]() -> IoWork::Result {
          const uint32_t crc = io::read_whole_file(path, targets);
          return [crc](Napi::Env env) -> Napi::Value {
            return Napi::String::New(env, io::crc32c_hex(crc));
          };
        });
  });
}

// fsyncDirectory(path)
Napi::Value fsync_directory(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    return IoWork::start(env, {}, [path = path_arg(call[0])]() -> IoWork::Result {
      io::fsync_directory(path);
      return undefined;
    });
  });
}

// crc32c(data, seed = 0)
Napi::Value crc32c(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Bytes data = bytes_arg(call[0], "data");
    const uint32_t seed = call[1].IsUndefined() ? 0 : integer_arg<uint32_t>(call[1], "seed");
    return Napi::Number::New(env, io::crc32c(data.data, data.size, seed));
  });
}

// setFaultPoint(n)
Napi::Value set_fault_point(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const uint64_t passed = io::set_fault_point(size_arg(call[0], "n"));
    return Napi::Number::New(env, static_cast<double>(passed));
  });
}

// holdFaultPoint(n)
Napi::Value hold_fault_point(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    io::hold_fault_point(size_arg(call[0], "n"));
    return env.Undefined();
  });
}

// createSwapFile(path, bytes, options)
Napi::Value create_swap_file(const Napi::CallbackInfo& call) { return make_swap_file(call); }

// Ends works in their order, and those that are left when it goes: an error is the promise's.
class Endings {
 public:
  Endings() = default;
  ~Endings() {
    while (next_ < works_.size()) end_next();
  }
  Endings(const Endings&) = delete;
  Endings& operator=(const Endings&) = delete;

  void add(ExternalWork work) { works_.push_back(std::move(work)); }
  // All up to `index`: groups without pieces, too.
  void end(size_t index) {
    while (next_ <= index) end_next();
  }

 private:
  void end_next() { works_[next_++].end(nullptr); }

  std::vector<ExternalWork> works_;
  size_t next_ = 0;
};

}  // namespace

Napi::Value write_file_by_groups(const Napi::CallbackInfo& call, Queues& queues) {
  const Napi::Env env = call.Env();
  std::string path = path_arg(call[0]);
  if (!call[1].IsArray()) throw EngineError("INVALID_ARGUMENT", "groups must be an array");
  const Napi::Array groups = call[1].As<Napi::Array>();
  std::vector<io::Piece> pieces;
  std::vector<Bytes> pinned;
  for (uint32_t group = 0; group < groups.Length(); ++group)
    add_pieces(groups.Get(group), group, pieces, pinned);
  const auto endings = std::make_shared<Endings>();
  const auto checksums =
      std::make_shared<io::Checksums>([endings](size_t group) { endings->end(group); }, true);
  const auto wanted = [weak = std::weak_ptr(checksums)] {
    if (const auto waited_for = weak.lock()) waited_for->hurry();
  };
  Napi::Array taken = Napi::Array::New(env);
  for (uint32_t group = 0; group < groups.Length(); ++group) {
    ExternalWork work = queues.external("checkpoint", wanted);
    taken.Set(group, Napi::Number::New(env, static_cast<double>(work.id)));
    endings->add(std::move(work));
  }
  Napi::Object result = Napi::Object::New(env);
  result["taken"] = taken;
  result["written"] =
      start_writing(env, std::move(path), std::move(pieces), std::move(pinned), checksums);
  return result;
}

void register_io(Napi::Env env, Napi::Object exports) {
  exports["createSwapFile"] = Napi::Function::New(env, create_swap_file, "createSwapFile");
  exports["writeFile"] = Napi::Function::New(env, write_file, "writeFile");
  exports["readFile"] = Napi::Function::New(env, read_file, "readFile");
  exports["readWholeFile"] = Napi::Function::New(env, read_whole_file, "readWholeFile");
  exports["crc32c"] = Napi::Function::New(env, crc32c, "crc32c");
  exports["fsyncDirectory"] = Napi::Function::New(env, fsync_directory, "fsyncDirectory");
  exports["setFaultPoint"] = Napi::Function::New(env, set_fault_point, "setFaultPoint");
  exports["holdFaultPoint"] = Napi::Function::New(env, hold_fault_point, "holdFaultPoint");
}

}  // namespace dsjs::binding
