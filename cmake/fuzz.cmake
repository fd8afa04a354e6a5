# ddad_fuzz: every fuzz target in one program, with clang's libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.
# Its engine knows one instruction set and one thread. What only computes is not watched for new ways through it: that
# would take most of the time and say nothing about the parsers.
file(GLOB DDAD_FUZZ_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/fuzz/native/*.cpp)
list(FILTER DDAD_FUZZ_SOURCES EXCLUDE REGEX "_test\\.cpp$")
add_executable(ddad_fuzz ${DDAD_FUZZ_SOURCES})
target_link_libraries(ddad_fuzz PRIVATE ddad_options ddad_engine)
target_link_options(ddad_fuzz PRIVATE -fsanitize=fuzzer)
set(DDAD_UNWATCHED ${DDAD_SOURCES} ${DDAD_SIMD_SOURCES} ${DDAD_FUZZ_SOURCES})
list(FILTER DDAD_UNWATCHED INCLUDE REGEX "/native/(graph|ops|noise|profile)/|_simd\\.cpp$|/fuzz/native/(main|mutate|support)\\.cpp$")
set_source_files_properties(${DDAD_UNWATCHED} PROPERTIES COMPILE_OPTIONS -fno-sanitize=fuzzer-no-link)
set_source_files_properties(${DDAD_UNWATCHED} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
target_precompile_headers(ddad_engine PRIVATE <nlohmann/json.hpp>)
