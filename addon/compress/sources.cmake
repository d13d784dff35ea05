dsjs_isa_sources(compress/int8_simd.cc)
dsjs_isa_sources(compress/low_rank_simd.cc)
dsjs_isa_sources(compress/sign_simd.cc)
dsjs_isa_sources(compress/top_k_simd.cc)
target_sources(dsjs_engine PRIVATE
  compress/block_quantiser.cc
  compress/compressed_all_reduce.cc
  compress/dispatch.cc
  compress/gradient_compressor.cc
  compress/int8_compressor.cc
  compress/int8_ref.cc
  compress/low_rank_ref.cc
  compress/power_sgd_compressor.cc
  compress/sign_ref.cc
  compress/top_k_compressor.cc
  compress/top_k_ref.cc)
