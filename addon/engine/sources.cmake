target_sources(dsjs_engine PRIVATE
  engine/engine.cc
  engine/queue.cc
  engine/tensor_work.cc
)
