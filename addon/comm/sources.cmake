dsjs_isa_sources(comm/reduce_simd.cc)
target_sources(dsjs_engine PRIVATE
  comm/arena.cc
  comm/channel.cc
  comm/control_page.cc
  comm/group.cc
  comm/group_messages.cc
  comm/reduce.cc
  comm/run_control.cc
  comm/solo.cc
  comm/stats.cc
  comm/world.cc
)
