target_sources(dsjs_engine PRIVATE
  aio/swap_file.cc
  aio/thread_queue.cc
  aio/transfer.cc
  aio/uring_queue.cc
)
