target_sources(dsjs_engine PRIVATE
  core/dtype.cc
  core/limits.cc
  core/memory.cc
  core/threads.cc
)
