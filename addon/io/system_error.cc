#include "io/system_error.h"

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace dsjs::io {

void throw_system_error(const char* verb, const std::string& path, int error,
                        const std::string& facts) {
  const char* code = "IO_ERROR";
  if (error == ENOSPC || error == EDQUOT) code = "IO_NO_SPACE";
  if (error == EACCES || error == EPERM || error == EROFS) code = "IO_PERMISSION";
  if (error == ENOENT || error == ENOTDIR) code = "IO_NOT_FOUND";
  throw EngineError(
      code, std::string("cannot ") + verb + " " + path + facts + ": " + std::strerror(error), verb);
}

}  // namespace dsjs::io
