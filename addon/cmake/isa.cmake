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

# Files for tile registers, in the namespace amx: where the compiler knows them, on Linux, which hands
# them out.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag("-mamx-tile -mamx-bf16" DSJS_COMPILES_AMX)
if(DSJS_COMPILES_AMX AND "avx512" IN_LIST DSJS_ISAS AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(DSJS_HAS_AMX ON)
  target_compile_definitions(dsjs_engine PRIVATE DSJS_HAS_AMX)
  add_library(dsjs_isa_amx OBJECT)
  target_include_directories(dsjs_isa_amx PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(dsjs_isa_amx PRIVATE DSJS_ISA=amx DSJS_ISA_AVX512
                             DSJS_ISA_AMX)
  target_compile_options(dsjs_isa_amx PRIVATE ${dsjs_isa_flags_avx512} -mamx-tile -mamx-bf16
                                              -fno-trapping-math -ffp-contract=off)
  target_sources(dsjs_engine PRIVATE $<TARGET_OBJECTS:dsjs_isa_amx>)
endif()

function(dsjs_amx_sources)
  if(DSJS_HAS_AMX)
    foreach(source ${ARGN})
      target_sources(dsjs_isa_amx PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    endforeach()
  endif()
endfunction()
