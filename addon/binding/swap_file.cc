// SwapFile: a file of the disk that stands in for memory, in JavaScript's hands.
#include "aio/swap_file.h"

#include "util.h"

namespace dsjs::binding {
namespace {

constexpr napi_type_tag kSwapFileTag = {0x6473'6a73'7377'6170, 0x7f02'c94d'18e6'b35b};

aio::Backend backend_of(const Napi::Value& value) {
  if (value.IsUndefined()) return aio::Backend::kAuto;
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  for (const auto backend : {aio::Backend::kAuto, aio::Backend::kUring, aio::Backend::kThreads})
    if (name == aio::backend_name(backend)) return backend;
  throw EngineError("INVALID_ARGUMENT", "backend must be \"auto\", \"io_uring\" or \"threads\"");
}

aio::Options options_of(const Napi::Value& value) {
  if (!value.IsObject()) throw EngineError("INVALID_ARGUMENT", "the aio options must be an object");
  const auto fields = value.As<Napi::Object>();
  return {.block_size = size_field(fields, "blockSize"),
          .queue_depth = size_field(fields, "queueDepth"),
          .threads = size_field(fields, "threads"),
          .single_submit = fields.Get("singleSubmit").ToBoolean(),
          .overlap_events = fields.Get("overlapEvents").ToBoolean(),
          .backend = backend_of(fields.Get("backend"))};
}

class SwapFileHandle final : public Napi::ObjectWrap<SwapFileHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "SwapFile",
                       {InstanceAccessor<&SwapFileHandle::path>("path", napi_enumerable),
                        InstanceAccessor<&SwapFileHandle::bytes>("bytes", napi_enumerable),
                        InstanceAccessor<&SwapFileHandle::direct>("direct", napi_enumerable),
                        InstanceAccessor<&SwapFileHandle::backend>("backend", napi_enumerable),
                        InstanceMethod<&SwapFileHandle::stats>("stats"),
                        InstanceMethod<&SwapFileHandle::read>("read"),
                        InstanceMethod<&SwapFileHandle::write>("write"),
                        InstanceMethod<&SwapFileHandle::dispose>("dispose")});
  }

  explicit SwapFileHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SwapFileHandle>(info) {
    guarded(info.Env(), [&] {
      if (!info[0].IsString()) throw EngineError("INVALID_ARGUMENT", "path must be a string");
      file_ = std::make_shared<aio::SwapFile>(info[0].As<Napi::String>(),
                                              size_arg(info[1], "bytes"), options_of(info[2]));
    });
    name_ = file_->path();
    tag(info.This().As<Napi::Object>(), kSwapFileTag);
  }

  std::shared_ptr<aio::SwapFile> file() const {
    if (!file_) throw EngineError("DISPOSED", "the swap file " + name_ + " has been disposed");
    return file_;
  }

 private:
  template <class Get>
  Napi::Value fact(const Napi::CallbackInfo& info, Get&& get) {
    return guarded(info.Env(), [&]() -> Napi::Value { return get(*file()); });
  }

  Napi::Value path(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), name_); }
  Napi::Value bytes(const Napi::CallbackInfo& info) {
    return fact(info, [&](const aio::SwapFile& file) {
      return Napi::Number::New(info.Env(), static_cast<double>(file.bytes()));
    });
  }
  Napi::Value direct(const Napi::CallbackInfo& info) {
    return fact(info, [&](const aio::SwapFile& file) {
      return Napi::Boolean::New(info.Env(), file.direct());
    });
  }
  Napi::Value backend(const Napi::CallbackInfo& info) {
    return fact(info, [&](const aio::SwapFile& file) {
      return Napi::String::New(info.Env(), aio::backend_name(file.backend()));
    });
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const aio::TransferStats stats = file()->stats();
      Napi::Object result = Napi::Object::New(info.Env());
      result["bytesRead"] = static_cast<double>(stats.bytes_read);
      result["bytesWritten"] = static_cast<double>(stats.bytes_written);
      result["requests"] = static_cast<double>(stats.requests);
      result["submissions"] = static_cast<double>(stats.submissions);
      result["mostUnderWay"] = static_cast<double>(stats.most_under_way);
      return result;
    });
  }

  // read(byteOffset, target)
  void read(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const Bytes target = bytes_arg(info[1], "target");
      file()->copy_out(size_arg(info[0], "byteOffset"), target.data, target.size);
    });
  }

  // write(byteOffset, source)
  void write(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const Bytes source = bytes_arg(info[1], "source");
      file()->copy_in(size_arg(info[0], "byteOffset"), source.data, source.size);
    });
  }

  void dispose(const Napi::CallbackInfo&) { file_.reset(); }

  std::string name_;
  std::shared_ptr<aio::SwapFile> file_;
};

}  // namespace

void register_swap_file(Napi::Env env) {
  keep_constructor(env, "SwapFile", SwapFileHandle::define(env));
}

Napi::Object make_swap_file(const Napi::CallbackInfo& info) {
  return constructor(info.Env(), "SwapFile").New({info[0], info[1], info[2]});
}

bool is_swap_file(const Napi::Value& value) { return has_tag(value, kSwapFileTag); }

std::shared_ptr<aio::SwapFile> unwrap_swap_file(const Napi::Value& value) {
  if (!is_swap_file(value)) throw EngineError("INVALID_ARGUMENT", "not a SwapFile");
  return SwapFileHandle::Unwrap(value.As<Napi::Object>())->file();
}

}  // namespace dsjs::binding
