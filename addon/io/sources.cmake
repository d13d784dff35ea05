target_sources(dsjs_engine PRIVATE
  io/checksums.cc
  io/crc32c.cc
  io/fault.cc
  io/files.cc
  io/system_error.cc
)
