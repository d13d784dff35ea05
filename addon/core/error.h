// The one error type of the engine. Everything that can fail throws it; addon/binding turns it into
// a JavaScript NativeError with the same fields.
#pragma once
#include <stdexcept>
#include <string>

namespace dsjs {

class EngineError : public std::runtime_error {
 public:
  // `code` is a stable identifier such as "COMM_MISMATCH"; `operation` what was being done.
  EngineError(std::string code, const std::string& message, std::string operation = "",
              int rank = -1, int peer = -1)
      : std::runtime_error(message),
        code_(std::move(code)),
        operation_(std::move(operation)),
        rank_(rank),
        peer_(peer) {}

  const std::string& code() const { return code_; }
  const std::string& operation() const { return operation_; }
  int rank() const { return rank_; }
  int peer() const { return peer_; }

 private:
  std::string code_;
  std::string operation_;
  int rank_;
  int peer_;
};

}  // namespace dsjs
