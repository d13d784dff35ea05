set_source_files_properties(core/build_id.cc PROPERTIES
  COMPILE_DEFINITIONS DSJS_BUILD_ID="${DSJS_BUILD_ID}")
target_sources(dsjs_engine PRIVATE
  core/build_id.cc
  core/dtype.cc
  core/futex.cc
  core/limits.cc
  core/memory.cc
  core/shared_memory.cc
  core/threads.cc
)
