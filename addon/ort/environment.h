// The process's ONNX Runtime environment: thread pool, allocator, custom operators.
#pragma once
#include <string>

#include "ort/ort_api.h"

namespace dsjs::ort {

// Errors reach the caller as exceptions; the runtime would print each of them as well.
constexpr int kLogFatal = 4;

// Creates the environment at the first call. It lives as long as the process: the runtime's own
// Node binding may hold sessions in it.
//
// The first engine's `threads` size the shared pool. Where an environment existed before
// (transformers.js made a session first), or another engine asks for another number, sessions get
// pools of their own with spinning off, so that idle pools take no core from the one that works.
class Environment {
 public:
  // `ranks` share this machine's cores.
  static Environment& get(int threads, int ranks);

  OrtEnv* env() const { return env_; }
  // Whether a session with `threads` threads may use the environment's pool.
  bool shares_pool(int threads) const { return threads == pool_threads_; }
  OrtCustomOpDomain* operators() const { return operators_; }
  // Why a session with these options cannot be made, in the runtime's words; empty where it can.
  std::string probe(const OrtSessionOptions* options) const;

 private:
  Environment(int threads, int ranks);

  OrtEnv* env_ = nullptr;
  OrtCustomOpDomain* operators_ = nullptr;
  int pool_threads_ = 0;  // 0: the environment has no pool of ours
};

}  // namespace dsjs::ort
