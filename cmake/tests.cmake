# ddad_native_tests and ddad_bench. They need no Node; beside the addon they are built only when asked for by name, so
# that installing the package stays quick. A published package has neither folder.
if(TARGET ddad_addon)
  set(DDAD_EXTRA EXCLUDE_FROM_ALL)
endif()

file(GLOB_RECURSE DDAD_BENCH_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/native/*.cpp)
if(DDAD_BENCH_SOURCES)
  add_executable(ddad_bench ${DDAD_EXTRA} ${DDAD_BENCH_SOURCES})
  target_link_libraries(ddad_bench PRIVATE ddad_options ddad_engine)
endif()

# The engine on a GPU; builds without one, and says what is missing when it runs.
file(GLOB DDAD_BENCH_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/cuda/*.cpp)
if(DDAD_BENCH_CUDA_SOURCES)
  add_executable(ddad_bench_cuda EXCLUDE_FROM_ALL ${DDAD_BENCH_CUDA_SOURCES})
  target_link_libraries(ddad_bench_cuda PRIVATE ddad_options ddad_engine)
endif()

file(GLOB_RECURSE DDAD_TEST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/native/*.cpp)
if(NOT DDAD_TEST_SOURCES)
  return()
endif()
# The fuzz targets replay their corpora; mutating and libFuzzer's side are for ddad_fuzz.
file(GLOB DDAD_FUZZ_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/fuzz/native/*.cpp)
list(FILTER DDAD_FUZZ_SOURCES EXCLUDE REGEX "/(main|mutate)\\.cpp$")
list(APPEND DDAD_TEST_SOURCES ${DDAD_FUZZ_SOURCES})
add_executable(ddad_native_tests ${DDAD_EXTRA} ${DDAD_TEST_SOURCES})
target_link_libraries(ddad_native_tests PRIVATE ddad_options ddad_engine)
target_include_directories(ddad_native_tests PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
target_compile_definitions(ddad_native_tests PRIVATE DDAD_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# One run per instruction set that this processor has, for our kernels and for oneDNN's. Under the sanitizers, where a
# run takes minutes, the newest only, unless DDAD_TEST_ALL_ISAS is on.
option(DDAD_TEST_ALL_ISAS "Under the sanitizers, too, run the native tests once per instruction set" OFF)
enable_testing()
set(DDAD_TEST_ISAS baseline)
if(EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo DDAD_CPU_FLAGS REGEX "^flags" LIMIT_COUNT 1)
  if(DDAD_CPU_FLAGS MATCHES " avx2 " AND DDAD_CPU_FLAGS MATCHES " fma ")
    list(APPEND DDAD_TEST_ISAS avx2)
  endif()
  if(DDAD_CPU_FLAGS MATCHES " avx512f " AND DDAD_CPU_FLAGS MATCHES " avx512bw " AND
     DDAD_CPU_FLAGS MATCHES " avx512dq " AND DDAD_CPU_FLAGS MATCHES " avx512vl")
    list(APPEND DDAD_TEST_ISAS avx512)
  endif()
endif()
if(DDAD_SANITIZE AND NOT DDAD_TEST_ALL_ISAS)
  list(GET DDAD_TEST_ISAS -1 DDAD_TEST_ISAS)
endif()
set(DDAD_SANITIZER_ENV "")
if(DDAD_SANITIZE)
  set(DDAD_SANITIZER_ENV "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/cmake/lsan.supp:print_suppressions=0"
                         UBSAN_OPTIONS=print_stacktrace=1)
endif()
set(DDAD_ONEDNN_ISA_baseline SSE41)
set(DDAD_ONEDNN_ISA_avx2 AVX2)
set(DDAD_ONEDNN_ISA_avx512 AVX512_CORE)
foreach(isa IN LISTS DDAD_TEST_ISAS)
  add_test(NAME native.${isa} COMMAND ddad_native_tests --test-case-exclude=gpu:* WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set(DDAD_TEST_ENV GOMP_SPINCOUNT=1000 DDAD_AUTOTUNE=off DDAD_MAX_CPU_ISA=${isa}
                    ONEDNN_MAX_CPU_ISA=${DDAD_ONEDNN_ISA_${isa}} ${DDAD_SANITIZER_ENV})
  set_tests_properties(native.${isa} PROPERTIES ENVIRONMENT "${DDAD_TEST_ENV}" TIMEOUT 600 LABELS native)
endforeach()
# What needs a GPU, apart: without one each of these says so and is skipped.
add_test(NAME native.gpu COMMAND ddad_native_tests --test-case=gpu:* WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
set_tests_properties(native.gpu PROPERTIES TIMEOUT 1200 LABELS native)
