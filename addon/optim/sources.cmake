dsjs_isa_sources(optim/optimizers_simd.cc)
target_sources(dsjs_engine PRIVATE
  optim/optimizers.cc
  optim/optimizers_ref.cc
)
