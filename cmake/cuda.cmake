# ddad_cuda: libddad_cuda.so, the CUDA device. The engine loads it from beside itself when it is asked for a GPU and
# links nothing of it. Host code is in files *_cuda.cpp, compiled like the rest; kernels are in *.cu, each compiled by
# nvcc for all architectures at once. CMake's own CUDA language does not know the layout of Python's packages, where
# the toolkit may come from.
set(DDAD_CUDA "auto" CACHE STRING "The CUDA device: on, off, or auto (where cmake/cuda_toolkit.cmake finds a toolkit)")
set_property(CACHE DDAD_CUDA PROPERTY STRINGS auto on off)
set(DDAD_CUDA_ARCHS "80;86;89;90" CACHE STRING
    "Compute capabilities that there is code for; newer ones translate that of the last")
set(DDAD_CUDA_HOME "$ENV{CUDA_HOME}" CACHE PATH "The folder of the CUDA toolkit")
set(DDAD_CUDNN_HOME "$ENV{CUDNN_HOME}" CACHE PATH "The folder of cuDNN, where it is another one")

# Both sides pass C++ objects to each other: they are of one build where these are the same.
set(DDAD_CUDA_CONTRACT
    backbone/feature_functions.h device/cuda_abi.h device/device.h noise/diffusion_math.h noise/noise_functions.h
    noise/noise_types.h graph/graph.h graph/op.h graph/device_ops.h base/error.h train/optimizer_functions.h train/optimizer_step.h)
set(DDAD_CUDA_ABI "")
foreach(header IN LISTS DDAD_CUDA_CONTRACT)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/${header})
  file(SHA256 ${CMAKE_SOURCE_DIR}/native/${header} hash)
  string(APPEND DDAD_CUDA_ABI ${hash})
endforeach()
string(SHA256 DDAD_CUDA_ABI "${DDAD_CUDA_ABI}")
string(SUBSTRING "${DDAD_CUDA_ABI}" 0 16 DDAD_CUDA_ABI)
file(STRINGS ${CMAKE_SOURCE_DIR}/package.json DDAD_PACKAGE_VERSION REGEX "^  \"version\":" LIMIT_COUNT 1)
string(REGEX REPLACE ".*: \"(.*)\".*" "\\1" DDAD_PACKAGE_VERSION "${DDAD_PACKAGE_VERSION}")
set_source_files_properties(
  ${CMAKE_SOURCE_DIR}/native/device/cuda_library.cpp ${CMAKE_SOURCE_DIR}/native/cuda/library_cuda.cpp
  PROPERTIES COMPILE_DEFINITIONS "DDAD_CUDA_ABI=\"${DDAD_PACKAGE_VERSION}-${DDAD_CUDA_ABI}\"")

string(TOLOWER "${DDAD_CUDA}" DDAD_CUDA_WANTED)
if(NOT DDAD_CUDA_WANTED MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "DDAD_CUDA: expected auto, on or off, got ${DDAD_CUDA}")
endif()
if(DDAD_CUDA_WANTED STREQUAL "off" OR DDAD_FUZZ OR (DDAD_CUDA_WANTED STREQUAL "auto" AND DDAD_SANITIZE))
  return()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/cuda_toolkit.cmake)
if(NOT DDAD_CUDA_FOUND)
  if(DDAD_CUDA_WANTED STREQUAL "on")
    message(FATAL_ERROR "DDAD_CUDA is on, and no usable CUDA toolkit was found (${DDAD_CUDA_MISSING}). Run "
                        "\"npm run build:cuda\", which downloads one, or name it with CUDA_HOME, and cuDNN with "
                        "CUDNN_HOME.")
  endif()
  message(STATUS "No CUDA device: ${DDAD_CUDA_MISSING}")
  return()
endif()
message(STATUS "CUDA device: ${DDAD_NVCC} (CUDA ${DDAD_CUDA_VERSION}) for ${DDAD_CUDA_ARCHS}")

file(GLOB_RECURSE DDAD_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/*_cuda.cpp)
file(GLOB_RECURSE DDAD_CUDA_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/*.cu)

# Machine code for each, and for the last its portable form, too, which drivers translate for GPUs to come.
set(DDAD_NVCC_ARCHS "")
foreach(arch IN LISTS DDAD_CUDA_ARCHS)
  list(APPEND DDAD_NVCC_ARCHS "arch=compute_${arch},code=sm_${arch}")
endforeach()
list(GET DDAD_CUDA_ARCHS -1 arch)
list(REMOVE_AT DDAD_NVCC_ARCHS -1)
list(APPEND DDAD_NVCC_ARCHS "arch=compute_${arch},code=[sm_${arch},compute_${arch}]")
list(TRANSFORM DDAD_NVCC_ARCHS PREPEND "-gencode=")
set(DDAD_NVCC_FLAGS -std=c++20 -O3 -ccbin ${CMAKE_CXX_COMPILER} --resource-usage -Xcompiler
                    -fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden,-Wall,-Wextra,-Wno-unknown-pragmas -DNDEBUG
                    -I${CMAKE_SOURCE_DIR}/native -isystem ${CMAKE_SOURCE_DIR}/third_party)
foreach(folder IN LISTS DDAD_CUDA_INCLUDES)
  list(APPEND DDAD_NVCC_FLAGS -isystem ${folder})
endforeach()
if(DDAD_WERROR)
  list(APPEND DDAD_NVCC_FLAGS -Werror all-warnings)
endif()

# Where the generator cannot read what the compiler has included, every header counts.
if(CMAKE_GENERATOR MATCHES "Ninja" OR NOT CMAKE_VERSION VERSION_LESS 3.20)
  set(DDAD_DEPFILES ON)
  if(POLICY CMP0116)
    cmake_policy(SET CMP0116 NEW)
  endif()
else()
  file(GLOB_RECURSE DDAD_CUDA_HEADERS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/*.h ${CMAKE_SOURCE_DIR}/native/*.cuh)
endif()
set(DDAD_CUDA_OBJECTS "")
foreach(source IN LISTS DDAD_CUDA_KERNELS)
  file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR}/native ${source})
  string(REPLACE "/" "." name ${name})
  set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
  set(dependencies ${source} ${CMAKE_CURRENT_LIST_DIR}/nvcc.cmake ${DDAD_CUDA_HEADERS})
  if(DDAD_DEPFILES)
    list(APPEND dependencies DEPFILE ${object}.d)
  endif()
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_COMMAND} -P ${CMAKE_CURRENT_LIST_DIR}/nvcc.cmake -- ${object}.txt ${DDAD_NVCC} ${DDAD_NVCC_FLAGS}
            ${DDAD_NVCC_ARCHS} -MD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
    DEPENDS ${dependencies}
    COMMENT "Building CUDA object ${name}.o"
    VERBATIM)
  list(APPEND DDAD_CUDA_OBJECTS ${object})
endforeach()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
file(WRITE ${CMAKE_BINARY_DIR}/cuda/nvcc.txt "${DDAD_NVCC}")  # for scripts/check-cuda.mjs
set_source_files_properties(${DDAD_CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)

# choices.cpp and what it needs: the engine's copies are in another module.
add_library(ddad_cuda SHARED ${DDAD_CUDA_SOURCES} ${DDAD_CUDA_OBJECTS} ${CMAKE_SOURCE_DIR}/native/device/choices.cpp
                             ${CMAKE_SOURCE_DIR}/native/file/json_fields.cpp)
target_link_libraries(ddad_cuda PRIVATE ddad_options ${DDAD_CUDA_LIBRARIES} Threads::Threads ${CMAKE_DL_LIBS} rt)
target_include_directories(ddad_cuda SYSTEM PRIVATE ${DDAD_CUDA_INCLUDES})
list(TRANSFORM DDAD_CUDA_ARCHS PREPEND "sm_" OUTPUT_VARIABLE DDAD_CUDA_ARCH_TEXT)
string(REPLACE ";" ", " DDAD_CUDA_ARCH_TEXT "${DDAD_CUDA_ARCH_TEXT}")
target_compile_definitions(ddad_cuda PRIVATE DDAD_VERSION="${DDAD_PACKAGE_VERSION}"
                                             DDAD_CUDA_ARCHS="${DDAD_CUDA_ARCH_TEXT}")
target_link_options(ddad_cuda PRIVATE -Wl,-z,defs -Wl,--exclude-libs,ALL -Wl,-Bsymbolic
                                      -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/cuda.map)
set_target_properties(ddad_cuda PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN;${DDAD_CUDA_FOLDERS}"
                                           LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/cuda.map)

# Beside the addon, and beside the programs, which cmake-js puts elsewhere.
get_target_property(folder ddad_cuda LIBRARY_OUTPUT_DIRECTORY)
if(folder AND NOT folder STREQUAL CMAKE_BINARY_DIR)
  add_custom_command(
    TARGET ddad_cuda POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E create_symlink $<TARGET_FILE:ddad_cuda> ${CMAKE_BINARY_DIR}/$<TARGET_FILE_NAME:ddad_cuda>
    VERBATIM)
endif()
foreach(user ddad_addon ddad_native_tests ddad_bench)
  if(TARGET ${user})
    add_dependencies(${user} ddad_cuda)
  endif()
endforeach()
