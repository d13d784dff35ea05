# Where a library with the CBLAS interface is: DSJS_CBLAS_LIBRARY, and DSJS_CBLAS_INCLUDE of its header.
macro(dsjs_find_cblas)
  if(APPLE)
    find_library(DSJS_CBLAS_LIBRARY Accelerate)
    find_path(DSJS_CBLAS_INCLUDE Accelerate/Accelerate.h)
  else()
    find_library(DSJS_CBLAS_LIBRARY NAMES openblas cblas blas)
    find_path(DSJS_CBLAS_INCLUDE cblas.h)
  endif()
endmacro()

function(dsjs_use_cblas target)
  # Accelerate's own interface is deprecated from macOS 13.3 on without the first.
  target_compile_definitions(${target} PRIVATE ACCELERATE_NEW_LAPACK DSJS_HAS_CBLAS)
  target_link_libraries(${target} PRIVATE ${DSJS_CBLAS_LIBRARY})
  if(NOT APPLE)
    target_include_directories(${target} PRIVATE ${DSJS_CBLAS_INCLUDE})
  endif()
endfunction()
