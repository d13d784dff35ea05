// createEngine: the NativeEngine of contract.ts.
#include "engine/engine.h"

#include <optional>
#include <unordered_map>
#include <utility>

#include "register.h"
#include "settler.h"
#include "util.h"

namespace dsjs::binding {
namespace {

constexpr napi_type_tag kEngineTag = {0x6473'6a73'656e'676e, 0x41c7'55d0'83be'2a19};
constexpr const char* kQueueNames[] = {"compute", "comm", "io"};

Region region_of(const Napi::Value& value, const char* name) {
  const RegionArg arg = region_arg(value, name);
  const auto offset = static_cast<size_t>(static_cast<uint8_t*>(arg.data) -
                                          static_cast<uint8_t*>(arg.buffer->data()));
  return {arg.buffer, offset, arg.count, arg.dtype};
}

bool is_absent(const Napi::Value& value) { return value.IsUndefined() || value.IsNull(); }

Region optional_region(const Napi::Value& value, const char* name) {
  return is_absent(value) ? Region{} : region_of(value, name);
}

// { buffer, byteOffset } of two float64.
Region pair_of(const Napi::Value& value, const char* name) {
  if (!value.IsObject())
    throw EngineError("INVALID_ARGUMENT", std::string(name) + " must be { buffer, byteOffset }");
  const auto fields = value.As<Napi::Object>();
  auto buffer = unwrap_buffer(fields.Get("buffer"));
  const size_t offset = size_field(fields, "byteOffset");
  constexpr size_t kBytes = 2 * sizeof(double);
  if (offset % sizeof(double) != 0 || offset > buffer->bytes() || kBytes > buffer->bytes() - offset)
    throw EngineError("INVALID_ARGUMENT", std::string(name) + ": two float64 from byte " +
                                              std::to_string(offset) + " of a buffer of " +
                                              std::to_string(buffer->bytes()) + " bytes");
  return {std::move(buffer), offset, 2, DType::kFloat64};
}

template <class T, class Read>
std::vector<T> list_of(const Napi::Value& value, const char* name, Read&& read) {
  if (!value.IsArray())
    throw EngineError("INVALID_ARGUMENT", std::string(name) + " must be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<T> items;
  items.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) items.push_back(read(array.Get(i)));
  return items;
}

Napi::Object object_of(const Napi::Value& value, const char* name) {
  if (!value.IsObject())
    throw EngineError("INVALID_ARGUMENT", std::string(name) + " must be an object");
  return value.As<Napi::Object>();
}

std::vector<WorkId> works_of(const Napi::Value& value) {
  if (is_absent(value)) return {};
  return list_of<WorkId>(value, "after", [](const Napi::Value& work) -> WorkId {
    return size_arg(work, "a work of `after`");
  });
}

std::vector<Shard> shards_of(const Napi::Value& value) {
  return list_of<Shard>(value, "shards", [](const Napi::Value& item) {
    const auto fields = object_of(item, "a shard");
    return Shard{size_field(fields, "offset"), size_field(fields, "count")};
  });
}

std::vector<ort::BoundTensor> bindings_of(const Napi::Value& value, const char* name) {
  return list_of<ort::BoundTensor>(value, name, [](const Napi::Value& item) {
    const auto fields = object_of(item, "a binding");
    ort::BoundTensor tensor;
    tensor.name = string_field(fields, "name");
    tensor.buffer = unwrap_buffer(fields.Get("buffer"));
    tensor.offset = size_field(fields, "byteOffset");
    tensor.dtype = dtype_field(fields, "dtype");
    tensor.dims = list_of<int64_t>(fields.Get("dims"), "dims", [](const Napi::Value& dim) {
      return integer_arg<int64_t>(dim, "a dimension");
    });
    return tensor;
  });
}

std::vector<SwapPiece> swap_pieces_of(const Napi::Value& value) {
  return list_of<SwapPiece>(value, "pieces", [](const Napi::Value& item) {
    const auto fields = object_of(item, "a piece");
    return SwapPiece{size_field(fields, "fileOffset"), region_of(fields.Get("region"), "region")};
  });
}

OptimizerHyper hyper_of(const Napi::Value& value) {
  const auto fields = object_of(value, "a parameter group");
  OptimizerHyper hyper;
  hyper.lr = number_field(fields, "lr");
  hyper.beta1 = number_field(fields, "beta1");
  hyper.beta2 = number_field(fields, "beta2");
  hyper.eps = number_field(fields, "eps");
  hyper.weight_decay = number_field(fields, "weightDecay");
  hyper.bias_correction = fields.Get("biasCorrection").ToBoolean();
  if (!is_absent(fields.Get("nesterov"))) hyper.nesterov = fields.Get("nesterov").ToBoolean();
  const auto optional = [&](const char* name, double& target) {
    if (!is_absent(fields.Get(name))) target = number_field(fields, name);
  };
  optional("dampening", hyper.dampening);
  optional("correction1", hyper.correction1);
  optional("correction2", hyper.correction2);
  optional("minCoeff", hyper.min_coeff);
  optional("maxCoeff", hyper.max_coeff);
  optional("coeffBeta", hyper.coeff_beta);
  optional("factorMin", hyper.factor_min);
  optional("factorMax", hyper.factor_max);
  optional("factorThreshold", hyper.factor_threshold);
  return hyper;
}

GradientCompression compression_of(const Napi::Value& value) {
  const auto fields = object_of(value, "the compression");
  GradientCompression compression;
  compression.kind = gradient_compression_from_name(string_field(fields, "type"));
  if (!is_absent(fields.Get("block"))) compression.block = size_field(fields, "block");
  if (!is_absent(fields.Get("ratio"))) compression.ratio = number_field(fields, "ratio");
  if (!is_absent(fields.Get("rank"))) compression.rank = size_field(fields, "rank");
  return compression;
}

OptimizerStep step_of(const Napi::Value& value) {
  const auto fields = object_of(value, "the optimizer step");
  OptimizerStep step;
  step.kind = optimizer_from_name(string_field(fields, "kind").c_str());
  step.step = size_field(fields, "step");
  step.master = region_of(fields.Get("master"), "master");
  step.gradient = region_of(fields.Get("gradient"), "gradient");
  step.state1 = optional_region(fields.Get("state1"), "state1");
  step.state2 = optional_region(fields.Get("state2"), "state2");
  step.state3 = optional_region(fields.Get("state3"), "state3");
  step.copy16 = optional_region(fields.Get("copy16"), "copy16");
  step.ratios = optional_region(fields.Get("ratios"), "ratios");
  step.ranges = list_of<OptimizerRange>(fields.Get("ranges"), "ranges", [](const auto& item) {
    const auto range = object_of(item, "a range");
    return OptimizerRange{size_field(range, "offset"), size_field(range, "count"),
                          size_field(range, "group")};
  });
  step.groups = list_of<OptimizerHyper>(fields.Get("groups"), "groups", hyper_of);
  step.gradient_scale = number_field(fields, "gradientScale");
  step.max_norm = number_field(fields, "maxNorm");
  if (const Napi::Value norm = fields.Get("norm"); !is_absent(norm)) {
    const Region pair = pair_of(norm, "norm");
    step.norm_buffer = pair.buffer;
    step.norm_offset = pair.offset;
  }
  return step;
}

class EngineHandle final : public Napi::ObjectWrap<EngineHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeEngine",
        {
            InstanceMethod<&EngineHandle::allocate>("allocate"),
            InstanceMethod<&EngineHandle::allocate_joint>("allocateJoint"),
            InstanceMethod<&EngineHandle::memory>("memory"),
            InstanceMethod<&EngineHandle::execution_providers>("executionProviders"),
            InstanceMethod<&EngineHandle::keep_device>("keepDevice"),
            InstanceMethod<&EngineHandle::load_session>("loadSession"),
            InstanceMethod<&EngineHandle::release_session>("releaseSession"),
            InstanceMethod<&EngineHandle::create_instance>("createInstance"),
            InstanceMethod<&EngineHandle::release_instance>("releaseInstance"),
            InstanceMethod<&EngineHandle::run>("run"),
            InstanceMethod<&EngineHandle::fill>("fill"),
            InstanceMethod<&EngineHandle::copy>("copy"),
            InstanceMethod<&EngineHandle::axpby>("axpby"),
            InstanceMethod<&EngineHandle::squared_norm>("squaredNorm"),
            InstanceMethod<&EngineHandle::optimizer_step>("optimizerStep"),
            InstanceMethod<&EngineHandle::swap_in>("swapIn"),
            InstanceMethod<&EngineHandle::swap_out>("swapOut"),
            InstanceMethod<&EngineHandle::write_file>("writeFile"),
            InstanceMethod<&EngineHandle::all_reduce>("allReduce"),
            InstanceMethod<&EngineHandle::reduce_scatter>("reduceScatter"),
            InstanceMethod<&EngineHandle::all_gather>("allGather"),
            InstanceMethod<&EngineHandle::create_compressor>("createCompressor"),
            InstanceMethod<&EngineHandle::compressed_all_reduce>("compressedAllReduce"),
            InstanceMethod<&EngineHandle::create_gradient_compressor>("createGradientCompressor"),
            InstanceMethod<&EngineHandle::compressed_sum>("compressedSum"),
            InstanceMethod<&EngineHandle::create_quantiser>("createQuantiser"),
            InstanceMethod<&EngineHandle::quantised_all_gather>("quantisedAllGather"),
            InstanceMethod<&EngineHandle::quantised_reduce_scatter>("quantisedReduceScatter"),
            InstanceMethod<&EngineHandle::create_group>("createGroup"),
            InstanceMethod<&EngineHandle::all_gather_within>("allGatherWithin"),
            InstanceMethod<&EngineHandle::broadcast>("broadcast"),
            InstanceMethod<&EngineHandle::barrier>("barrier"),
            InstanceMethod<&EngineHandle::throttle_comm>("throttleComm"),
            InstanceMethod<&EngineHandle::comm_stats>("commStats"),
            InstanceMethod<&EngineHandle::wait>("wait"),
            InstanceMethod<&EngineHandle::wait_sync>("waitSync"),
            InstanceMethod<&EngineHandle::idle>("idle"),
            InstanceMethod<&EngineHandle::set_tracing>("setTracing"),
            InstanceMethod<&EngineHandle::take_records>("takeRecords"),
            InstanceMethod<&EngineHandle::dispose>("dispose"),
        });
  }

  // new NativeEngine(options), by createEngine only.
  explicit EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
    guarded(info.Env(), [&] {
      const auto options = object_of(info[0], "the engine options");
      EngineConfig config;
      config.threads = integer_field<int>(options, "threads");
      if (!is_absent(options.Get("ortLibrary")))
        config.ort_library = string_field(options, "ortLibrary");
      engine_ = std::make_unique<Engine>(unwrap_communicator(options.Get("communicator")),
                                         std::move(config));
    });
    settler_ = Settler::create(info.Env());
    tag(info.This().As<Napi::Object>(), kEngineTag);
    // Runs before the environment goes (process.exit, an uncaught throw, a worker's termination):
    // a thread of ours inside ONNX Runtime at that time would run in libraries that are being taken
    // down.
    napi_add_env_cleanup_hook(info.Env(), shut_down, this);
  }

  ~EngineHandle() override {
    if (!engine_) return;
    napi_remove_env_cleanup_hook(env_of_hook_, shut_down, this);
    engine_->dispose();
    settler_->close();
  }

 private:
  static void shut_down(void* self) {
    auto* handle = static_cast<EngineHandle*>(self);
    handle->settler_->abandon();
    handle->engine_->dispose();
  }

  template <class Body>
  Napi::Value enqueue(const Napi::CallbackInfo& info, Body&& body) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Number::New(info.Env(), static_cast<double>(body()));
    });
  }

  Napi::Value allocate(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const size_t bytes = size_arg(info[0], "bytes");
      const auto options = object_of(info[1], "the allocation's options");
      const Category category = category_from_name(string_field(options, "category"));
      return wrap_buffer(info.Env(),
                         engine_->allocate(bytes, category, options.Get("shared").ToBoolean()));
    });
  }

  Napi::Value allocate_joint(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto bytes = list_of<size_t>(
          info[0], "bytes", [](const Napi::Value& item) { return size_arg(item, "bytes"); });
      const auto options = object_of(info[1], "the allocation's options");
      const Category category = category_from_name(string_field(options, "category"));
      return wrap_buffer(info.Env(), engine_->allocate_joint(bytes, category));
    });
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const MemoryAccount& account = engine_->account();
    const auto number = [&](auto value) {
      return Napi::Number::New(env, static_cast<double>(value));
    };
    Napi::Object current = Napi::Object::New(env), peak = Napi::Object::New(env);
    for (int i = 0; i < static_cast<int>(Category::kCount); i++) {
      const auto category = static_cast<Category>(i);
      current[category_name(category)] = number(account.current(category));
      peak[category_name(category)] = number(account.peak(category));
    }
    Napi::Object result = Napi::Object::New(env);
    result["current"] = current;
    result["peak"] = peak;
    result["total"] = number(account.total());
    result["peakTotal"] = number(account.peak_total());
    result["allocations"] = number(account.allocations());
    return result;
  }

  // executionProviders()
  Napi::Value execution_providers(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&] {
      const auto states = engine_->execution_providers();
      Napi::Array list = Napi::Array::New(env, states.size());
      for (uint32_t i = 0; i < states.size(); ++i) {
        Napi::Object state = Napi::Object::New(env);
        state["name"] = states[i].name;
        state["fault"] =
            states[i].fault.empty() ? env.Null() : Napi::String::New(env, states[i].fault);
        list[i] = state;
      }
      return list;
    });
  }

  void keep_device(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [] { ort::keep_device(); });
  }

  // loadSession(model, options)
  Napi::Value load_session(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      const Bytes model = bytes_arg(info[0], "model");
      const auto options = object_of(info[1], "the session options");
      ort::SessionConfig config;
      config.name = string_field(options, "name");
      if (!is_absent(options.Get("provider"))) config.provider = string_field(options, "provider");
      if (const auto level = options.Get("optimizationLevel"); !is_absent(level))
        config.optimization_level = integer_arg<int>(level, "optimizationLevel");
      if (const auto pattern = options.Get("memoryPattern"); !is_absent(pattern))
        config.memory_pattern = pattern.ToBoolean();
      if (!is_absent(options.Get("profilePrefix")))
        config.profile_prefix = string_field(options, "profilePrefix");
      return engine_->load_session(model.data, model.size, std::move(config));
    });
  }

  void release_session(const Napi::CallbackInfo& info) {
    guarded(info.Env(),
            [&] { engine_->release_session(integer_arg<uint32_t>(info[0], "session")); });
  }

  // createInstance(session, inputs, outputs)
  Napi::Value create_instance(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->create_instance(integer_arg<uint32_t>(info[0], "session"),
                                      bindings_of(info[1], "inputs"),
                                      bindings_of(info[2], "outputs"));
    });
  }

  void release_instance(const Napi::CallbackInfo& info) {
    guarded(info.Env(),
            [&] { engine_->release_instance(integer_arg<uint32_t>(info[0], "instance")); });
  }

  // run(instance, after?)
  Napi::Value run(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->run(integer_arg<uint32_t>(info[0], "instance"), works_of(info[1]));
    });
  }

  // fill(region, value, after?)
  Napi::Value fill(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->fill(region_of(info[0], "region"), info[1].ToNumber(), works_of(info[2]));
    });
  }

  // copy(source, target, after?)
  Napi::Value copy(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->copy(region_of(info[0], "source"), region_of(info[1], "target"),
                           works_of(info[2]));
    });
  }

  // axpby(source, target, b, a, after?)
  Napi::Value axpby(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->axpby(region_of(info[0], "source"), region_of(info[1], "target"),
                            info[2].ToNumber(), info[3].ToNumber(), works_of(info[4]));
    });
  }

  // squaredNorm(regions, out, after?)
  Napi::Value squared_norm(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->squared_norm(
          list_of<Region>(info[0], "regions",
                          [](const Napi::Value& item) { return region_of(item, "a region"); }),
          pair_of(info[1], "out"), works_of(info[2]));
    });
  }

  // optimizerStep(step, after?)
  Napi::Value optimizer_step(const Napi::CallbackInfo& info) {
    return enqueue(info,
                   [&] { return engine_->optimizer_step(step_of(info[0]), works_of(info[1])); });
  }

  // swapIn(file, pieces, after?)
  Napi::Value swap_in(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->swap_in(unwrap_swap_file(info[0]), swap_pieces_of(info[1]),
                              works_of(info[2]));
    });
  }

  // writeFile(path, groups)
  Napi::Value write_file(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return write_file_by_groups(info, engine_->queues()); });
  }

  // swapOut(file, pieces, norm?, after?)
  Napi::Value swap_out(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->swap_out(unwrap_swap_file(info[0]), swap_pieces_of(info[1]),
                               is_absent(info[2]) ? Region{} : pair_of(info[2], "norm"),
                               works_of(info[3]));
    });
  }

  // allReduce(region, op?, after?)
  Napi::Value all_reduce(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->all_reduce(region_of(info[0], "region"), reduce_op_arg(info[1]),
                                 works_of(info[2]));
    });
  }

  // reduceScatter(bucket, shards, target, options?, after?)
  Napi::Value reduce_scatter(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      const bool accumulate = !is_absent(info[3]) &&
                              object_of(info[3], "options").Get("accumulate").ToBoolean().Value();
      return engine_->reduce_scatter(region_of(info[0], "bucket"), shards_of(info[1]),
                                     optional_region(info[2], "target"), accumulate,
                                     works_of(info[4]));
    });
  }

  // allGather(region, shards, after?)
  Napi::Value all_gather(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->all_gather(region_of(info[0], "region"), shards_of(info[1]),
                                 works_of(info[2]));
    });
  }

  // createCompressor(tensors)
  Napi::Value create_compressor(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto tensors = list_of<size_t>(info[0], "tensors", [](const Napi::Value& length) {
        return size_arg(length, "a tensor's length");
      });
      const uint32_t id = engine_->create_compressor(tensors);
      auto made = Napi::Object::New(info.Env());
      made.Set("id", id);
      made.Set("served", static_cast<double>(engine_->compressor_served(id)));
      return made;
    });
  }

  // compressedAllReduce(compressor, x, workerError, serverError, after?)
  Napi::Value compressed_all_reduce(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->compressed_all_reduce(
          integer_arg<uint32_t>(info[0], "compressor"), region_of(info[1], "x"),
          region_of(info[2], "workerError"), optional_region(info[3], "serverError"),
          works_of(info[4]));
    });
  }

  // createGradientCompressor(compression, tensors)
  Napi::Value create_gradient_compressor(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto tensors =
          list_of<CompressedTensor>(info[1], "tensors", [](const Napi::Value& item) {
            const auto fields = object_of(item, "a tensor");
            return CompressedTensor{size_field(fields, "offset"), size_field(fields, "rows"),
                                    size_field(fields, "columns")};
          });
      const uint32_t id = engine_->create_gradient_compressor(compression_of(info[0]), tensors);
      auto made = Napi::Object::New(info.Env());
      made.Set("id", id);
      made.Set("factors", static_cast<double>(engine_->gradient_factors(id)));
      return made;
    });
  }

  // compressedSum(compressor, x, error, factors, after?, ratio?)
  Napi::Value compressed_sum(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      const auto ratio =
          is_absent(info[5]) ? std::nullopt : std::optional(info[5].ToNumber().DoubleValue());
      return engine_->compressed_sum(integer_arg<uint32_t>(info[0], "compressor"),
                                     region_of(info[1], "x"), region_of(info[2], "error"),
                                     optional_region(info[3], "factors"), ratio, works_of(info[4]));
    });
  }

  // createQuantiser({ bits, block, largest })
  Napi::Value create_quantiser(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto fields = object_of(info[0], "options");
      const BlockQuantisation how{static_cast<int>(size_field(fields, "bits")),
                                  size_field(fields, "block")};
      return Napi::Number::New(info.Env(),
                               engine_->create_quantiser(how, size_field(fields, "largest")));
    });
  }

  // quantisedAllGather(quantiser, region, shards, after?)
  Napi::Value quantised_all_gather(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->quantised_all_gather(integer_arg<uint32_t>(info[0], "quantiser"),
                                           region_of(info[1], "region"), shards_of(info[2]),
                                           works_of(info[3]));
    });
  }

  // quantisedReduceScatter(quantiser, bucket, shards, target, options?, after?)
  Napi::Value quantised_reduce_scatter(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      const bool accumulate = !is_absent(info[4]) &&
                              object_of(info[4], "options").Get("accumulate").ToBoolean().Value();
      return engine_->quantised_reduce_scatter(
          integer_arg<uint32_t>(info[0], "quantiser"), region_of(info[1], "bucket"),
          shards_of(info[2]), optional_region(info[3], "target"), accumulate, works_of(info[5]));
    });
  }

  // createGroup(color)
  Napi::Value create_group(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Number::New(info.Env(),
                               engine_->create_group(integer_arg<int>(info[0], "color")));
    });
  }

  // allGatherWithin(group, region, shards, after?)
  Napi::Value all_gather_within(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->all_gather_within(integer_arg<uint32_t>(info[0], "group"),
                                        region_of(info[1], "region"), shards_of(info[2]),
                                        works_of(info[3]));
    });
  }

  // broadcast(region, root, after?)
  Napi::Value broadcast(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] {
      return engine_->broadcast(region_of(info[0], "region"), integer_arg<int>(info[1], "root"),
                                works_of(info[2]));
    });
  }

  // barrier(after?)
  Napi::Value barrier(const Napi::CallbackInfo& info) {
    return enqueue(info, [&] { return engine_->barrier(works_of(info[0])); });
  }

  void throttle_comm(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { engine_->throttle_comm(info[0].ToNumber()); });
  }

  // wait(work)
  Napi::Value wait(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return settler_->promise(info.Env(), [&](Settler::Done done) {
        engine_->queues().on_done(size_arg(info[0], "work"), std::move(done));
      });
    });
  }

  void wait_sync(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { engine_->queues().wait(size_arg(info[0], "work")); });
  }

  Napi::Value idle(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return settler_->promise(
          info.Env(), [&](Settler::Done done) { engine_->queues().on_idle(std::move(done)); });
    });
  }

  Napi::Value comm_stats(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return stats_value(info.Env(), engine_->comm_stats()); });
  }

  void set_tracing(const Napi::CallbackInfo& info) {
    engine_->queues().set_tracing(info[0].ToBoolean());
  }

  Napi::Value take_records(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto records = engine_->queues().take_records();
    Napi::Array list = Napi::Array::New(env, records.size());
    const auto number = [&](uint64_t value) {
      return Napi::Number::New(env, static_cast<double>(value));
    };
    for (uint32_t i = 0; i < records.size(); i++) {
      Napi::Object record = Napi::Object::New(env);
      record["work"] = number(records[i].work);
      record["queue"] = kQueueNames[static_cast<int>(records[i].queue)];
      record["name"] = records[i].name;
      record["enqueuedNs"] = number(records[i].enqueued_ns);
      record["startNs"] = number(records[i].start_ns);
      record["endNs"] = number(records[i].end_ns);
      list[i] = record;
    }
    return list;
  }

  void dispose(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { engine_->dispose(); });
    settler_->close();
  }

  const napi_env env_of_hook_ = Env();
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Settler> settler_;
};

Napi::Value create_engine(const Napi::CallbackInfo& info) {
  return constructor(info.Env(), "NativeEngine").New({info[0]});
}

}  // namespace

void register_engine(Napi::Env env, Napi::Object exports) {
  keep_constructor(env, "NativeEngine", EngineHandle::define(env));
  exports["createEngine"] = Napi::Function::New(env, create_engine, "createEngine");
}

}  // namespace dsjs::binding
