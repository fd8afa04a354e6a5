# Finds oneDNN 3.2 or newer, built with the OpenMP runtime, as the target DNNL::dnnl. In this order: dnnl_DIR when the
# caller gives it; what scripts/setup.mjs has downloaded; an installed one. Nothing is downloaded from here.

# The package of oneDNN 3.2 asks for the policies of CMake 2.6, which CMake 4 refuses without this.
set(CMAKE_POLICY_VERSION_MINIMUM 3.10)

set(DDAD_ONEDNN_LOCAL "${CMAKE_CURRENT_LIST_DIR}/../.deps/onednn")
if(NOT dnnl_DIR AND EXISTS "${DDAD_ONEDNN_LOCAL}/lib/cmake/dnnl/dnnl-config.cmake")
  set(dnnl_DIR "${DDAD_ONEDNN_LOCAL}/lib/cmake/dnnl")
endif()
find_package(dnnl 3.2 CONFIG QUIET)
if(NOT dnnl_FOUND)
  message(FATAL_ERROR "oneDNN 3.2 or newer (3.x) was not found. Run \"node scripts/setup.mjs\" to download it, or give "
                      "the folder of dnnl-config.cmake as -Ddnnl_DIR=<folder>.")
endif()
if(NOT DNNL_CPU_RUNTIME STREQUAL "OMP")
  message(FATAL_ERROR "oneDNN in ${dnnl_DIR} uses the CPU runtime '${DNNL_CPU_RUNTIME}'; the engine needs 'OMP'.")
endif()
