// Files, swap files, checksums, fault points. File work runs on libuv's worker threads; what it
// reads and writes is pinned until the promise settles, and let go on the JavaScript thread.
#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "io/crc32c.h"
#include "io/fault.h"
#include "io/files.h"
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

// Bytes of a swap file on their way from or to another file.
constexpr size_t kSwapChunk = size_t{4} << 20;

void read_into_swap(const std::string& path, uint64_t file_offset, const SwapRange& target) {
  std::vector<uint8_t> chunk(std::min(kSwapChunk, target.bytes));
  for (size_t done = 0; done < target.bytes; done += chunk.size()) {
    chunk.resize(std::min(chunk.size(), target.bytes - done));
    io::read_into(path, file_offset + done, chunk.data(), chunk.size());
    target.file->copy_in(target.offset + done, chunk.data(), chunk.size());
  }
}

// writeFile(path, pieces)
Napi::Value write_file(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    std::string path = path_arg(call[0]);
    if (!call[1].IsArray()) throw EngineError("INVALID_ARGUMENT", "pieces must be an array");
    const Napi::Array list = call[1].As<Napi::Array>();
    std::vector<Bytes> pinned;
    std::vector<io::Piece> pieces;
    for (uint32_t index = 0; index < list.Length(); ++index) {
      const Napi::Value entry = list.Get(index);
      if (!entry.IsObject()) throw EngineError("INVALID_ARGUMENT", "a piece must be an object");
      const Napi::Object piece = entry.As<Napi::Object>();
      const size_t file_offset = size_field(piece, "fileOffset");
      if (const SwapRange range = swap_range_of(piece.Get("source")); range.file) {
        pieces.push_back({file_offset, nullptr, range.bytes,
                          [range](uint64_t offset, void* target, size_t bytes) {
                            range.file->copy_out(range.offset + offset, target, bytes);
                          }});
        continue;
      }
      Bytes source = pinned_bytes_arg(piece.Get("source"), "source");
      pieces.push_back({file_offset, source.data, source.size});
      pinned.push_back(std::move(source));
    }
    return IoWork::start(env, std::move(pinned),
                         [path = std::move(path), pieces = std::move(pieces)]() -> IoWork::Result {
                           const io::Written written = io::write_file(path, pieces);
                           return [written](Napi::Env env) -> Napi::Value {
                             Napi::Object result = Napi::Object::New(env);
                             result["bytes"] =
                                 Napi::Number::New(env, static_cast<double>(written.bytes));
                             result["crc32c"] = io::crc32c_hex(written.crc32c);
                             return result;
                           };
                         });
  });
}

// readInto(path, fileOffset, target)
Napi::Value read_into(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    std::string path = path_arg(call[0]);
    const size_t offset = size_arg(call[1], "fileOffset");
    if (SwapRange range = swap_range_of(call[2]); range.file) {
      return IoWork::start(
          env, {}, [path = std::move(path), offset, range = std::move(range)]() -> IoWork::Result {
            read_into_swap(path, offset, range);
            return undefined;
          });
    }
    std::vector<Bytes> pinned;
    pinned.push_back(pinned_bytes_arg(call[2], "target"));
    uint8_t* const data = pinned[0].data;
    const size_t bytes = pinned[0].size;
    return IoWork::start(env, std::move(pinned),
                         [path = std::move(path), offset, data, bytes]() -> IoWork::Result {
                           io::read_into(path, offset, data, bytes);
                           return undefined;
                         });
  });
}

// crc32cFile(path)
Napi::Value crc32c_file(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    return IoWork::start(env, {}, [path = path_arg(call[0])]() -> IoWork::Result {
      const uint32_t crc = io::crc32c_file(path);
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

// createSwapFile(path, bytes, options)
Napi::Value create_swap_file(const Napi::CallbackInfo& call) { return make_swap_file(call); }

}  // namespace

void register_io(Napi::Env env, Napi::Object exports) {
  exports["createSwapFile"] = Napi::Function::New(env, create_swap_file, "createSwapFile");
  exports["writeFile"] = Napi::Function::New(env, write_file, "writeFile");
  exports["readInto"] = Napi::Function::New(env, read_into, "readInto");
  exports["crc32c"] = Napi::Function::New(env, crc32c, "crc32c");
  exports["crc32cFile"] = Napi::Function::New(env, crc32c_file, "crc32cFile");
  exports["fsyncDirectory"] = Napi::Function::New(env, fsync_directory, "fsyncDirectory");
  exports["setFaultPoint"] = Napi::Function::New(env, set_fault_point, "setFaultPoint");
}

}  // namespace dsjs::binding
