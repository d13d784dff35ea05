// The slice of ONNX Runtime's C API that the engine uses, declared by index.
//
// onnxruntime-node ships the library and no header. The API is one table of function pointers whose
// order never changes: functions are only ever appended, so an index and a signature are a complete
// declaration. `api::Name(args...)` calls entry `index` of the table that `load_library` found.
#pragma once
#include <cstddef>
#include <cstdint>

// Opaque objects of the runtime.
struct OrtEnv;
struct OrtStatus;
struct OrtMemoryInfo;
struct OrtIoBinding;
struct OrtSession;
struct OrtValue;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtThreadingOptions;

struct OrtApiBase {
  const void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Our implementation of the runtime's allocator interface starts with this struct.
struct OrtAllocator {
  uint32_t version;
  void* (*Alloc)(OrtAllocator* self, size_t size);
  void (*Free)(OrtAllocator* self, void* memory);
  const OrtMemoryInfo* (*Info)(const OrtAllocator* self);
  void* (*Reserve)(OrtAllocator* self, size_t size);  // initializers; null: Alloc
};

// A custom operator: `self` is this struct, so that it can be the first member of ours.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* self, const void* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* self);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* self);
  int (*GetInputType)(const OrtCustomOp* self, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* self);
  int (*GetOutputType)(const OrtCustomOp* self, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* self);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* self, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp* self, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp* self, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* self);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* self);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* self);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* self);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* self, const void* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* self, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* self);
  int (*GetEndVersion)(const OrtCustomOp* self);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

namespace dsjs::ort::api {

// The version of the table that is asked for; the library refuses when it is older.
constexpr uint32_t kApiVersion = 20;

// Set once per process by `load_library`.
extern const void* const* table;

template <size_t kIndex, class Signature>
struct Function;

template <size_t kIndex, class Result, class... Args>
struct Function<kIndex, Result(Args...)> {
  Result operator()(Args... args) const {
    return reinterpret_cast<Result (*)(Args...)>(const_cast<void*>(table[kIndex]))(args...);
  }
};

// Entries that return OrtStatus* return null on success; `check` turns others into EngineError.
template <size_t kIndex, class... Args>
using Status = Function<kIndex, OrtStatus*(Args...)>;
template <size_t kIndex, class Object>
using Release = Function<kIndex, void(Object*)>;

// Status
inline constexpr Function<0, OrtStatus*(int, const char*)> CreateStatus;
inline constexpr Function<2, const char*(const OrtStatus*)> GetErrorMessage;
inline constexpr Release<93, OrtStatus> ReleaseStatus;

// Environment and thread pools
inline constexpr Status<3, int, const char*, OrtEnv**> CreateEnv;
inline constexpr Status<119, int, const char*, const OrtThreadingOptions*, OrtEnv**>
    CreateEnvWithGlobalThreadPools;
inline constexpr Release<92, OrtEnv> ReleaseEnv;
inline constexpr Status<121, OrtThreadingOptions**> CreateThreadingOptions;
inline constexpr Release<122, OrtThreadingOptions> ReleaseThreadingOptions;
inline constexpr Status<147, OrtThreadingOptions*, int> SetGlobalIntraOpNumThreads;
inline constexpr Status<148, OrtThreadingOptions*, int> SetGlobalInterOpNumThreads;
inline constexpr Status<149, OrtThreadingOptions*, int> SetGlobalSpinControl;
inline constexpr Status<176, OrtEnv*, OrtAllocator*> RegisterAllocator;

// Sessions
inline constexpr Status<10, OrtSessionOptions**> CreateSessionOptions;
inline constexpr Release<100, OrtSessionOptions> ReleaseSessionOptions;
inline constexpr Status<14, OrtSessionOptions*, const char*> EnableProfiling;
inline constexpr Status<17, OrtSessionOptions*> DisableMemPattern;
inline constexpr Status<19, OrtSessionOptions*> DisableCpuMemArena;
inline constexpr Status<22, OrtSessionOptions*, int> SetSessionLogSeverityLevel;
inline constexpr Status<23, OrtSessionOptions*, int> SetSessionGraphOptimizationLevel;
inline constexpr Status<24, OrtSessionOptions*, int> SetIntraOpNumThreads;
inline constexpr Status<25, OrtSessionOptions*, int> SetInterOpNumThreads;
inline constexpr Status<120, OrtSessionOptions*> DisablePerSessionThreads;
inline constexpr Status<130, OrtSessionOptions*, const char*, const char*> AddSessionConfigEntry;
inline constexpr Status<125, char***, int*> GetAvailableProviders;
inline constexpr Status<126, char**, int> ReleaseAvailableProviders;
inline constexpr Status<216, OrtSessionOptions*, const char*, const char* const*,
                        const char* const*, size_t>
    SessionOptionsAppendExecutionProvider;
inline constexpr Status<273, OrtSessionOptions*, bool> SetDeterministicCompute;
inline constexpr Status<8, const OrtEnv*, const void*, size_t, const OrtSessionOptions*,
                        OrtSession**>
    CreateSessionFromArray;
inline constexpr Release<95, OrtSession> ReleaseSession;
inline constexpr Status<30, const OrtSession*, size_t*> SessionGetInputCount;
inline constexpr Status<31, const OrtSession*, size_t*> SessionGetOutputCount;
inline constexpr Status<36, const OrtSession*, size_t, OrtAllocator*, char**> SessionGetInputName;
inline constexpr Status<37, const OrtSession*, size_t, OrtAllocator*, char**> SessionGetOutputName;
inline constexpr Status<33, const OrtSession*, size_t, OrtTypeInfo**> SessionGetInputTypeInfo;
inline constexpr Status<34, const OrtSession*, size_t, OrtTypeInfo**> SessionGetOutputTypeInfo;
inline constexpr Status<55, const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**>
    CastTypeInfoToTensorInfo;
inline constexpr Release<98, OrtTypeInfo> ReleaseTypeInfo;
inline constexpr Status<110, OrtSession*, OrtAllocator*, char**> SessionEndProfiling;

// Runs over bound memory
inline constexpr Status<9, OrtSession*, const OrtRunOptions*, const char* const*,
                        const OrtValue* const*, size_t, const char* const*, size_t, OrtValue**>
    Run;
inline constexpr Status<39, OrtRunOptions**> CreateRunOptions;
inline constexpr Status<46, OrtRunOptions*> RunOptionsSetTerminate;
inline constexpr Release<97, OrtRunOptions> ReleaseRunOptions;
inline constexpr Status<134, OrtSession*, OrtIoBinding**> CreateIoBinding;
inline constexpr Release<135, OrtIoBinding> ReleaseIoBinding;
inline constexpr Status<136, OrtIoBinding*, const char*, const OrtValue*> BindInput;
inline constexpr Status<137, OrtIoBinding*, const char*, const OrtValue*> BindOutput;
inline constexpr Status<133, OrtSession*, const OrtRunOptions*, const OrtIoBinding*> RunWithBinding;

// Values and memory
inline constexpr Status<49, const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t, int,
                        OrtValue**>
    CreateTensorWithDataAsOrtValue;
inline constexpr Release<96, OrtValue> ReleaseValue;
inline constexpr Status<51, OrtValue*, void**> GetTensorMutableData;
inline constexpr Status<65, const OrtValue*, OrtTensorTypeAndShapeInfo**> GetTensorTypeAndShape;
inline constexpr Status<57, OrtTensorTypeAndShapeInfo**> CreateTensorTypeAndShapeInfo;
inline constexpr Status<58, OrtTensorTypeAndShapeInfo*, int> SetTensorElementType;
inline constexpr Status<59, OrtTensorTypeAndShapeInfo*, const int64_t*, size_t> SetDimensions;
inline constexpr Status<60, const OrtTensorTypeAndShapeInfo*, int*> GetTensorElementType;
inline constexpr Status<61, const OrtTensorTypeAndShapeInfo*, size_t*> GetDimensionsCount;
inline constexpr Status<62, const OrtTensorTypeAndShapeInfo*, int64_t*, size_t> GetDimensions;
inline constexpr Release<99, OrtTensorTypeAndShapeInfo> ReleaseTensorTypeAndShapeInfo;
inline constexpr Status<68, const char*, int, int, int, OrtMemoryInfo**> CreateMemoryInfo;
inline constexpr Release<94, OrtMemoryInfo> ReleaseMemoryInfo;
inline constexpr Status<76, OrtAllocator*, void*> AllocatorFree;
inline constexpr Status<78, OrtAllocator**> GetAllocatorWithDefaultOptions;

// Custom operators
inline constexpr Status<26, const char*, OrtCustomOpDomain**> CreateCustomOpDomain;
inline constexpr Status<27, OrtCustomOpDomain*, const OrtCustomOp*> CustomOpDomain_Add;
inline constexpr Status<28, OrtSessionOptions*, OrtCustomOpDomain*> AddCustomOpDomain;
inline constexpr Status<85, const OrtKernelInfo*, const char*, float*> KernelInfoGetAttribute_float;
inline constexpr Status<86, const OrtKernelInfo*, const char*, int64_t*>
    KernelInfoGetAttribute_int64;
inline constexpr Status<87, const OrtKernelInfo*, const char*, char*, size_t*>
    KernelInfoGetAttribute_string;
inline constexpr Status<88, const OrtKernelContext*, size_t*> KernelContext_GetInputCount;
inline constexpr Status<89, const OrtKernelContext*, size_t*> KernelContext_GetOutputCount;
inline constexpr Status<90, const OrtKernelContext*, size_t, const OrtValue**>
    KernelContext_GetInput;
inline constexpr Status<91, OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**>
    KernelContext_GetOutput;
inline constexpr Status<274, const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t,
                        void*>
    KernelContext_ParallelFor;
inline constexpr Status<267, const OrtShapeInferContext*, size_t*> ShapeInferContext_GetInputCount;
inline constexpr Status<268, const OrtShapeInferContext*, size_t, OrtTensorTypeAndShapeInfo**>
    ShapeInferContext_GetInputTypeShape;
inline constexpr Status<270, const OrtShapeInferContext*, size_t, const OrtTensorTypeAndShapeInfo*>
    ShapeInferContext_SetOutputTypeShape;

}  // namespace dsjs::ort::api
