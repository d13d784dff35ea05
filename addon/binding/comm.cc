// createCommunicator and the class NativeCommunicator.
#include <cstring>
#include <vector>

#include "comm/backends.h"
#include "comm/mpi_run.h"
#include "register.h"
#include "run_control.h"
#include "util.h"

namespace dsjs::binding {
namespace {

constexpr napi_type_tag kCommunicatorTag = {0x6473'6a73'636f'6d6d, 0x5e0a'91c3'77d4'28b6};

DType dtype_of(const Napi::TypedArray& array) {
  switch (array.TypedArrayType()) {
    case napi_float32_array:
      return DType::kFloat32;
    case napi_float64_array:
      return DType::kFloat64;
    case napi_int32_array:
      return DType::kInt32;
    default:
      throw EngineError("INVALID_ARGUMENT",
                        "allReduce takes a Float32Array, Float64Array or Int32Array", "allReduce");
  }
}

class CommunicatorHandle final : public Napi::ObjectWrap<CommunicatorHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeCommunicator",
        {
            InstanceAccessor<&CommunicatorHandle::rank>("rank", napi_enumerable),
            InstanceAccessor<&CommunicatorHandle::size>("size", napi_enumerable),
            InstanceAccessor<&CommunicatorHandle::shares_memory>("sharesMemory", napi_enumerable),
            InstanceMethod<&CommunicatorHandle::all_reduce>("allReduce"),
            InstanceMethod<&CommunicatorHandle::all_gather>("allGather"),
            InstanceMethod<&CommunicatorHandle::broadcast>("broadcast"),
            InstanceMethod<&CommunicatorHandle::barrier>("barrier"),
            InstanceMethod<&CommunicatorHandle::split>("split"),
            InstanceMethod<&CommunicatorHandle::leave>("leave"),
            InstanceMethod<&CommunicatorHandle::stats>("stats"),
            InstanceMethod<&CommunicatorHandle::dispose>("dispose"),
        });
  }

  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Communicator> communicator) {
    return constructor(env, "NativeCommunicator")
        .New({Napi::External<std::shared_ptr<Communicator>>::New(env, &communicator)});
  }

  // By wrap() only, which hands the communicator over as an external.
  explicit CommunicatorHandle(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<CommunicatorHandle>(info) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "NativeCommunicator is made by createCommunicator()");
    communicator_ = *info[0].As<Napi::External<std::shared_ptr<Communicator>>>().Data();
    rank_ = communicator_->rank();
    size_ = communicator_->size();
    shares_memory_ = communicator_->shares_memory();
    tag(info.This().As<Napi::Object>(), kCommunicatorTag);
  }

  Communicator& open() const {
    if (!communicator_)
      throw EngineError("DISPOSED", "this communicator has been disposed", "", rank_);
    return *communicator_;
  }

 private:
  Napi::Value rank(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), rank_); }
  Napi::Value size(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), size_); }

  Napi::Value shares_memory(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), shares_memory_);
  }

  void all_reduce(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      if (!info[0].IsTypedArray())
        throw EngineError("INVALID_ARGUMENT", "allReduce takes a typed array", "allReduce");
      const auto array = info[0].As<Napi::TypedArray>();
      const DType type = dtype_of(array);
      const Bytes bytes = bytes_arg(array, "data");
      open().all_reduce(bytes.data, bytes.size / size_of(type), type, reduce_op_arg(info[1]));
    });
  }

  Napi::Value all_gather(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      Communicator& communicator = open();
      const Bytes own = bytes_arg(info[0], "data");
      const size_t ranks = static_cast<size_t>(size_);
      Napi::Uint8Array result = Napi::Uint8Array::New(env, own.size * ranks);
      std::vector<Shard> shards;
      for (size_t rank = 0; rank < ranks; ++rank) shards.push_back({rank * own.size, own.size});
      if (own.size > 0)
        std::memcpy(result.Data() + static_cast<size_t>(rank_) * own.size, own.data, own.size);
      communicator.all_gather(result.Data(), own.size * ranks, DType::kUint8, shards);
      return result;
    });
  }

  void broadcast(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const Bytes bytes = bytes_arg(info[0], "data");
      open().broadcast(bytes.data, bytes.size, integer_arg<int>(info[1], "root"));
    });
  }

  void barrier(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { open().barrier(); });
  }

  Napi::Value split(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();
      auto part = open().split(integer_arg<int32_t>(info[0], "color", kLeast),
                               integer_arg<int32_t>(info[1], "key", kLeast));
      if (!part) return env.Null();
      return wrap(env, std::move(part));
    });
  }

  void leave(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { open().leave(info[0].ToString()); });
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return stats_value(info.Env(), open().stats()); });
  }

  void dispose(const Napi::CallbackInfo&) { communicator_.reset(); }

  std::shared_ptr<Communicator> communicator_;
  int rank_ = 0;
  int size_ = 1;
  bool shares_memory_ = false;
};

Napi::Value create_communicator(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    if (!info[0].IsObject())
      throw EngineError("INVALID_ARGUMENT", "options must be an object", "createCommunicator");
    const auto options = info[0].As<Napi::Object>();
    const std::string backend = string_field(options, "backend");
    const double hang_timeout_ms = options.Get("hangTimeoutMs").IsUndefined()
                                       ? kDefaultHangTimeoutMs
                                       : number_field(options, "hangTimeoutMs");
    std::unique_ptr<Communicator> communicator;
    if (backend == "solo") {
      communicator = make_solo();
    } else if (backend == "inprocess") {
      communicator =
          make_inprocess(string_field(options, "key"), integer_field<int>(options, "rank"),
                         integer_field<int>(options, "worldSize"), hang_timeout_ms);
    } else if (backend == "shm") {
      const RunOptions run = run_options(options);
      communicator = make_shm(run.rank, run.control_fd, run.arena_fds, hang_timeout_ms);
    } else if (backend == "mpi") {
      MpiOptions mpi;
      mpi.module = string_field(options, "module");
      mpi.identity = string_field(options, "identity");
      if (!options.Get("lanes").IsUndefined()) mpi.lanes = integer_field<int>(options, "lanes");
      if (!options.Get("ranksAHost").IsUndefined())
        mpi.ranks_a_host = integer_field<int>(options, "ranksAHost");
      communicator = make_hosts_group(open_mpi_run(mpi), hang_timeout_ms);
    } else {
      throw EngineError("INVALID_ARGUMENT",
                        "\"" + backend + "\" is not a backend: shm, mpi, inprocess or solo",
                        "createCommunicator");
    }
    return CommunicatorHandle::wrap(env, std::move(communicator));
  });
}

}  // namespace

Napi::Value stats_value(Napi::Env env, const std::vector<CommStat>& cells) {
  Napi::Array list = Napi::Array::New(env, cells.size());
  for (uint32_t index = 0; index < cells.size(); ++index) {
    Napi::Object entry = Napi::Object::New(env);
    entry["operation"] = cells[index].operation;
    entry["bytes"] = Napi::Number::New(env, static_cast<double>(cells[index].bytes));
    entry["calls"] = Napi::Number::New(env, static_cast<double>(cells[index].calls));
    entry["totalNs"] = Napi::Number::New(env, static_cast<double>(cells[index].total_ns));
    entry["waitNs"] = Napi::Number::New(env, static_cast<double>(cells[index].wait_ns));
    list[index] = entry;
  }
  return list;
}

std::shared_ptr<Communicator> unwrap_communicator(const Napi::Value& value) {
  if (!has_tag(value, kCommunicatorTag))
    throw EngineError("INVALID_ARGUMENT", "not a NativeCommunicator");
  Communicator& shared = CommunicatorHandle::Unwrap(value.As<Napi::Object>())->open();
  return shared.split(0, shared.rank());
}

void register_comm(Napi::Env env, Napi::Object exports) {
  keep_constructor(env, "NativeCommunicator", CommunicatorHandle::define(env));
  exports["createCommunicator"] =
      Napi::Function::New(env, create_communicator, "createCommunicator");
  register_run_control(env, exports);
}

}  // namespace dsjs::binding
