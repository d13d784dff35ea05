target_sources(dsjs_engine PRIVATE
  engine/engine.cc
  engine/lamb_work.cc
  engine/queue.cc
  engine/tensor_work.cc
)
