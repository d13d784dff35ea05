// The digest of the sources that this engine was built from.
#pragma once

namespace dsjs {

const char* build_id();

}  // namespace dsjs
