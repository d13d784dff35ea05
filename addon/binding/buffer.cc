// NativeBuffer: engine memory in JavaScript's hands.
#include "util.h"

namespace dsjs::binding {
namespace {

constexpr napi_type_tag kBufferTag = {0x6473'6a73'6275'6666, 0x9b1d'4c60'2f2e'11a7};
constexpr napi_type_tag kViewTag = {0x6473'6a73'7669'6577, 0x27e5'a0b4'93cd'6f18};

// What the external ArrayBuffer keeps alive. Node runs its finalizer some time after the buffer is
// detached; `dispose` empties this cell at once instead, so that memory is free when it returns.
// The ArrayBuffer also wraps its cell, by which asynchronous work on a typed array finds the
// buffer.
struct ViewCell {
  std::shared_ptr<Buffer> buffer;
};

class BufferHandle final : public Napi::ObjectWrap<BufferHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeBuffer",
                       {InstanceAccessor<&BufferHandle::bytes>("bytes", napi_enumerable),
                        InstanceAccessor<&BufferHandle::category>("category", napi_enumerable),
                        InstanceAccessor<&BufferHandle::shared>("shared", napi_enumerable),
                        InstanceMethod<&BufferHandle::view>("view"),
                        InstanceMethod<&BufferHandle::dispose>("dispose")});
  }

  // Constructed by wrap_buffer only, which hands the memory over as an external.
  explicit BufferHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BufferHandle>(info) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "NativeBuffer is made by engine.allocate()");
    buffer_ = *info[0].As<Napi::External<std::shared_ptr<Buffer>>>().Data();
    bytes_ = buffer_->bytes();
    category_ = buffer_->category();
    shared_ = buffer_->shared();
    tag(info.This().As<Napi::Object>(), kBufferTag);
  }

  std::shared_ptr<Buffer> buffer() const {
    if (!buffer_)
      throw EngineError("DISPOSED", "this buffer of " + std::to_string(bytes_) + " bytes (" +
                                        category_name(category_) + ") has been disposed");
    return buffer_;
  }

 private:
  Napi::Value bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
  }
  Napi::Value category(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), category_name(category_));
  }
  Napi::Value shared(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), shared_);
  }

  Napi::Value view(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      const std::shared_ptr<Buffer> memory = buffer();
      if (!view_.IsEmpty()) return view_.Value();
      cell_ = std::make_shared<ViewCell>(ViewCell{memory});
      auto* kept = new std::shared_ptr<ViewCell>(cell_);
      const auto release = [](Napi::Env, void*, std::shared_ptr<ViewCell>* cell) { delete cell; };
      Napi::ArrayBuffer array =
          memory->bytes() == 0
              ? Napi::ArrayBuffer::New(env, 0)
              : Napi::ArrayBuffer::New(env, memory->data(), memory->bytes(), release, kept);
      if (memory->bytes() == 0) delete kept;
      array.TypeTag(&kViewTag);
      wrap_cell(env, array);
      view_ = Napi::Persistent(array);
      return array;
    });
  }

  void wrap_cell(Napi::Env env, Napi::ArrayBuffer array) {
    auto* wrapped = new std::shared_ptr<ViewCell>(cell_);
    const auto release = [](napi_env, void* cell, void*) {
      delete static_cast<std::shared_ptr<ViewCell>*>(cell);
    };
    if (napi_wrap(env, array, wrapped, release, nullptr, nullptr) == napi_ok) return;
    delete wrapped;
    throw Napi::Error::New(env);
  }

  void dispose(const Napi::CallbackInfo&) {
    if (!view_.IsEmpty()) {
      Napi::ArrayBuffer array = view_.Value();
      if (!array.IsDetached()) array.Detach();
      view_.Reset();
      cell_->buffer.reset();
      cell_.reset();
    }
    buffer_.reset();
  }

  std::shared_ptr<Buffer> buffer_;
  std::shared_ptr<ViewCell> cell_;
  Napi::Reference<Napi::ArrayBuffer> view_;
  size_t bytes_ = 0;
  Category category_ = Category::kIo;
  bool shared_ = false;
};

}  // namespace

void register_buffer(Napi::Env env) {
  keep_constructor(env, "NativeBuffer", BufferHandle::define(env));
}

Napi::Object wrap_buffer(Napi::Env env, std::shared_ptr<Buffer> buffer) {
  return constructor(env, "NativeBuffer")
      .New({Napi::External<std::shared_ptr<Buffer>>::New(env, &buffer)});
}

std::shared_ptr<Buffer> unwrap_buffer(const Napi::Value& value) {
  if (!has_tag(value, kBufferTag)) throw EngineError("INVALID_ARGUMENT", "not a NativeBuffer");
  return BufferHandle::Unwrap(value.As<Napi::Object>())->buffer();
}

std::shared_ptr<Buffer> viewed_buffer(Napi::ArrayBuffer array) {
  void* cell = nullptr;
  if (!has_tag(array, kViewTag) || napi_unwrap(array.Env(), array, &cell) != napi_ok)
    return nullptr;
  return (*static_cast<std::shared_ptr<ViewCell>*>(cell))->buffer;
}

}  // namespace dsjs::binding
