dsjs_isa_sources(compress/sign_simd.cc)
target_sources(dsjs_engine PRIVATE
  compress/compressed_all_reduce.cc
  compress/dispatch.cc
  compress/sign_ref.cc)
