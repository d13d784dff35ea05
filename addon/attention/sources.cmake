target_sources(dsjs_engine PRIVATE
  attention/attention.cc
  attention/attention_ref.cc
  attention/block_mask.cc)
dsjs_isa_sources(attention/attention_simd.cc)
dsjs_amx_sources(attention/attention_simd.cc)
