# Vectors and 16-bit types of core belong here too, as everything compiled per instruction set does.
dsjs_isa_sources(
  core/half_simd.cc
  kernels/activation_simd.cc
  kernels/elementwise_simd.cc
  kernels/normalization_simd.cc
  kernels/softmax_simd.cc)
target_sources(dsjs_engine PRIVATE
  core/half.cc
  core/isa.cc
  kernels/activation_ref.cc
  kernels/dispatch.cc
  kernels/elementwise.cc
  kernels/elementwise_ref.cc
  kernels/normalization_ref.cc
  kernels/softmax_ref.cc)
