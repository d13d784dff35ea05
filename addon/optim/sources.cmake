dsjs_isa_sources(optim/optimizers_simd.cc)
dsjs_isa_sources(optim/lamb_simd.cc)
dsjs_isa_sources(optim/lamb_frozen_simd.cc)
target_sources(dsjs_engine PRIVATE
  optim/lamb.cc
  optim/lamb_frozen.cc
  optim/lamb_frozen_ref.cc
  optim/lamb_ref.cc
  optim/optimizers.cc
  optim/optimizers_ref.cc
)
