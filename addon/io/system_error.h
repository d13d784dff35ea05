// The system's reasons as EngineErrors: what was done to which file, and why it failed.
#pragma once
#include <string>

namespace dsjs::io {

// "cannot VERB PATH FACTS: REASON" with code IO_NO_SPACE, IO_PERMISSION, IO_NOT_FOUND or IO_ERROR.
[[noreturn]] void throw_system_error(const char* verb, const std::string& path, int error,
                                     const std::string& facts = "");

}  // namespace dsjs::io
