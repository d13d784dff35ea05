#include "core/build_id.h"

namespace dsjs {

const char* build_id() { return DSJS_BUILD_ID; }

}  // namespace dsjs
