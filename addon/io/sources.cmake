target_sources(dsjs_engine PRIVATE
  io/checksums.cc
  io/crc32c.cc
  io/fault.cc
  io/file.cc
  io/files.cc
  io/read_file.cc
  io/system_error.cc
)
