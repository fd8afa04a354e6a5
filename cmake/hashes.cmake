# ddad_hashes: the hashes of model files, third_party/blake3 and third_party/xxhash (their C sources, unchanged). They find
# the processor's instruction sets by themselves.
set(DDAD_BLAKE3 ${CMAKE_SOURCE_DIR}/third_party/blake3)
set(DDAD_XXHASH ${CMAKE_SOURCE_DIR}/third_party/xxhash)
set(DDAD_HASH_SOURCES ${DDAD_BLAKE3}/blake3.c ${DDAD_BLAKE3}/blake3_dispatch.c ${DDAD_BLAKE3}/blake3_portable.c
                      ${DDAD_XXHASH}/xxhash.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  foreach(isa_flags "sse2;-msse2" "sse41;-msse4.1" "avx2;-mavx2" "avx512;-mavx512f;-mavx512vl")
    list(POP_FRONT isa_flags isa)
    list(APPEND DDAD_HASH_SOURCES ${DDAD_BLAKE3}/blake3_${isa}.c)
    set_source_files_properties(${DDAD_BLAKE3}/blake3_${isa}.c PROPERTIES COMPILE_OPTIONS "${isa_flags}")
  endforeach()
  list(APPEND DDAD_HASH_SOURCES ${DDAD_XXHASH}/xxh_x86dispatch.c)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  list(APPEND DDAD_HASH_SOURCES ${DDAD_BLAKE3}/blake3_neon.c)
endif()
add_library(ddad_hashes STATIC ${DDAD_HASH_SOURCES})
target_link_libraries(ddad_hashes PRIVATE ddad_hardening)
target_compile_options(ddad_hashes PRIVATE -w -O3)  # warnings are their authors' to see
