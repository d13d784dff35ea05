# Sources that are compiled once for each instruction set, with its flags and in its own namespace
# (DSJS_ISA): dsjs_isa_sources(core/half_simd.cc ...). Such a file must define nothing that another
# translation unit may share (no inline function or template outside DSJS_ISA), or the linker could keep
# an AVX-512 copy for a processor without it. Multiplications and additions are fused only where the
# source says fma, so that every set computes what is written.
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" dsjs_processor)
set(DSJS_ISAS portable)
if(dsjs_processor MATCHES "^(x86_64|amd64)$")
  list(APPEND DSJS_ISAS avx2 avx512)
elseif(dsjs_processor MATCHES "^(aarch64|arm64)$")
  list(APPEND DSJS_ISAS neon)
endif()

set(dsjs_isa_flags_portable "")
set(dsjs_isa_flags_neon "")
set(dsjs_isa_flags_avx2 -mavx2 -mfma -mf16c)
set(dsjs_isa_flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
                          -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC's own AVX-512 header passes deliberately undefined vectors about (GCC bug 105593).
  list(APPEND dsjs_isa_flags_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

foreach(isa ${DSJS_ISAS})
  add_library(dsjs_isa_${isa} OBJECT)
  target_include_directories(dsjs_isa_${isa} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  string(TOUPPER ${isa} isa_upper)
  target_compile_definitions(dsjs_isa_${isa} PRIVATE DSJS_ISA=${isa} DSJS_ISA_${isa_upper})
  target_compile_options(dsjs_isa_${isa} PRIVATE ${dsjs_isa_flags_${isa}} -fno-trapping-math
                                                 -ffp-contract=off)
  target_sources(dsjs_engine PRIVATE $<TARGET_OBJECTS:dsjs_isa_${isa}>)
endforeach()

function(dsjs_isa_sources)
  foreach(isa ${DSJS_ISAS})
    foreach(source ${ARGN})
      target_sources(dsjs_isa_${isa} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    endforeach()
  endforeach()
endfunction()
