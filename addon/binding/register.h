// One registration function per part of the binding; module.cc calls them all.
#pragma once
#include <napi.h>

namespace dsjs::binding {

void register_core(Napi::Env env, Napi::Object exports);  // info, convert, systemLimits, bindCores
void register_comm(Napi::Env env,
                   Napi::Object exports);  // createCommunicator, run control, joinRun
void register_engine(Napi::Env env, Napi::Object exports);  // createEngine
void register_io(Napi::Env env, Napi::Object exports);      // files, checksums, fault points

}  // namespace dsjs::binding
