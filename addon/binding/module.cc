// The module: each part of the binding registers its own functions.
#include <napi.h>

#include "register.h"

namespace dsjs::binding {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  register_core(env, exports);
  register_comm(env, exports);
  register_engine(env, exports);
  register_io(env, exports);
  return exports;
}

NODE_API_MODULE(deepspeed, initialize)

}  // namespace dsjs::binding
