target_sources(dsjs_engine PRIVATE
  core/dtype.cc
  core/futex.cc
  core/limits.cc
  core/memory.cc
  core/shared_memory.cc
  core/threads.cc
)
