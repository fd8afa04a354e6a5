# ddad_cuda_emulated: the CUDA device over a CUDA runtime that the CPU does, for tests where there is no GPU; see
# test/emulated/README.md. Like libddad_cuda.so to the engine, which DDAD_CUDA_LIBRARY makes load it.
if(DDAD_FUZZ OR NOT EXISTS ${CMAKE_SOURCE_DIR}/test/emulated)
  return()
endif()
file(GLOB DDAD_EMULATED_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/emulated/*.cpp)
file(GLOB DDAD_EMULATED_DEVICE CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/device/cuda/*_cuda.cpp)
file(GLOB_RECURSE DDAD_EMULATED_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/*.cu)
list(FILTER DDAD_EMULATED_KERNELS EXCLUDE REGEX "/probe\\.cu$")
set_source_files_properties(${DDAD_EMULATED_KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")

add_library(ddad_cuda_emulated SHARED EXCLUDE_FROM_ALL ${DDAD_EMULATED_SOURCES} ${DDAD_EMULATED_DEVICE}
            ${DDAD_EMULATED_KERNELS} ${CMAKE_SOURCE_DIR}/native/cuda/library_cuda.cpp
            ${CMAKE_SOURCE_DIR}/native/ops/cuda_ops_cuda.cpp ${CMAKE_SOURCE_DIR}/native/ops/group_norm/group_norm_cuda.cpp)
target_include_directories(ddad_cuda_emulated BEFORE PRIVATE ${CMAKE_SOURCE_DIR}/test/emulated)
target_link_libraries(ddad_cuda_emulated PRIVATE ddad_options ddad_engine)
target_link_options(ddad_cuda_emulated PRIVATE -Wl,-Bsymbolic -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/cuda.map)
set_target_properties(ddad_cuda_emulated PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})

# The tests of the CUDA device; under the sanitizers, where they take minutes, those that go through the most of it.
if(TARGET ddad_native_tests)
  add_dependencies(ddad_native_tests ddad_cuda_emulated)
  set(DDAD_EMULATED_TESTS "gpu:*,CUDA device*")
  if(DDAD_SANITIZE)
    set(DDAD_EMULATED_TESTS "gpu: scores*,gpu: golden networks*,gpu: a step*,CUDA device*")
  endif()
  add_test(NAME native.emulated COMMAND ddad_native_tests "--test-case=${DDAD_EMULATED_TESTS}"
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(native.emulated PROPERTIES TIMEOUT 900 LABELS native ENVIRONMENT
    "DDAD_AUTOTUNE=off;DDAD_TEST_CUDA=required;DDAD_CUDA_LIBRARY=${CMAKE_BINARY_DIR}/libddad_cuda_emulated.so;${DDAD_SANITIZER_ENV}")
endif()
