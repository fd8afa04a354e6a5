# ddad_engine: native/**/*.cpp without bind/ and the CUDA device (*_cuda.cpp: cmake/cuda.cmake). A file named *_simd.cpp
# is compiled once per instruction set, with DDAD_ISA as its namespace; native/device/dispatch.h chooses among the copies
# at run time.
file(GLOB_RECURSE DDAD_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/*.cpp)
list(FILTER DDAD_SOURCES EXCLUDE REGEX "/native/bind/|_cuda\\.cpp$")
set(DDAD_SIMD_SOURCES ${DDAD_SOURCES})
list(FILTER DDAD_SIMD_SOURCES INCLUDE REGEX "_simd\\.cpp$")
list(FILTER DDAD_SOURCES EXCLUDE REGEX "_simd\\.cpp$")

set(DDAD_ISAS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT DDAD_FUZZ)
  list(APPEND DDAD_ISAS avx2 avx512)
endif()
set(DDAD_ISA_FLAGS_baseline "")
set(DDAD_ISA_FLAGS_avx2 -mavx2 -mfma)
set(DDAD_ISA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)

add_library(ddad_engine STATIC ${DDAD_SOURCES})
target_link_libraries(ddad_engine PRIVATE ddad_options ddad_hashes PUBLIC DNNL::dnnl OpenMP::OpenMP_CXX Threads::Threads
                                  ${CMAKE_DL_LIBS})

if(DDAD_SIMD_SOURCES)
  foreach(isa IN LISTS DDAD_ISAS)
    add_library(ddad_simd_${isa} OBJECT ${DDAD_SIMD_SOURCES})
    target_link_libraries(ddad_simd_${isa} PRIVATE ddad_options)
    target_compile_definitions(ddad_simd_${isa} PRIVATE DDAD_ISA=${isa})
    target_compile_options(ddad_simd_${isa} PRIVATE -O3 -fno-math-errno -fno-trapping-math -fno-signed-zeros
                                                    -fopenmp-simd ${DDAD_ISA_FLAGS_${isa}})
    target_sources(ddad_engine PRIVATE $<TARGET_OBJECTS:ddad_simd_${isa}>)
  endforeach()
endif()
