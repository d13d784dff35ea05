target_sources(dsjs_engine PRIVATE
  gemm/gemm.cc
  gemm/gemm_ref.cc
  gemm/linear_cross_entropy.cc
  gemm/plan.cc)
dsjs_isa_sources(gemm/gemm_simd.cc)
dsjs_amx_sources(gemm/gemm_amx.cc)
if(DSJS_CBLAS)
  dsjs_find_cblas()
  target_sources(dsjs_engine PRIVATE gemm/cblas.cc)
  dsjs_use_cblas(dsjs_engine)
endif()
