target_sources(dsjs_engine PRIVATE
  ort/activation_ops.cc
  ort/allocator.cc
  ort/attention_ops.cc
  ort/custom_op.cc
  ort/elementwise_ops.cc
  ort/environment.cc
  ort/gemm_ops.cc
  ort/library.cc
  ort/normalization_ops.cc
  ort/provider.cc
  ort/session.cc
  ort/softmax_ops.cc
)
