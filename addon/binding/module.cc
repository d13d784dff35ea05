// The module: each part of the binding registers its own functions.
#include <napi.h>

#include "register.h"

namespace dsjs::binding {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  register_core(env, exports);
#if __has_include("comm.cc")
  register_comm(env, exports);
#endif
#if __has_include("engine.cc")
  register_engine(env, exports);
#endif
#if __has_include("io.cc")
  register_io(env, exports);
#endif
  return exports;
}

NODE_API_MODULE(deepspeed, initialize)

}  // namespace dsjs::binding
