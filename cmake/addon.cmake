# ddad_addon: ddad.node, the engine behind N-API. The headers are those of node-api-headers and node-addon-api only, so
# one binary serves every Node.js that has the pinned version of N-API.
set(DDAD_ADDON_INCLUDES ${CMAKE_JS_INC})
if(NOT DDAD_ADDON_INCLUDES)
  set(DDAD_ADDON_INCLUDES ${DDAD_NODE_HEADERS})
endif()
file(GLOB_RECURSE DDAD_BIND_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/bind/*.cpp)
if(NOT DDAD_ADDON_INCLUDES OR NOT DDAD_BIND_SOURCES)
  return()
endif()

add_library(ddad_addon MODULE ${DDAD_BIND_SOURCES} ${CMAKE_JS_SRC})
target_link_libraries(ddad_addon PRIVATE ddad_options ddad_engine ${CMAKE_JS_LIB})
target_include_directories(ddad_addon SYSTEM PRIVATE ${DDAD_ADDON_INCLUDES})
target_compile_definitions(ddad_addon PRIVATE NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS NODE_GYP_MODULE_NAME=ddad)
set_target_properties(ddad_addon PROPERTIES OUTPUT_NAME ddad PREFIX "" SUFFIX ".node")

# Only the two entry points are visible, and ours call ours: sharp brings libraries of its own into the process.
if(APPLE)
  target_link_options(ddad_addon PRIVATE -undefined dynamic_lookup)
  set_target_properties(ddad_addon PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "@loader_path")
else()
  set(DDAD_EXPORTS ${CMAKE_SOURCE_DIR}/cmake/addon.map)
  target_link_options(ddad_addon PRIVATE -Wl,--exclude-libs,ALL -Wl,-Bsymbolic -Wl,--version-script=${DDAD_EXPORTS})
  set_target_properties(ddad_addon PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN"
                                              LINK_DEPENDS ${DDAD_EXPORTS})
endif()

# oneDNN travels beside the addon, under the name that the loader looks for.
get_target_property(DDAD_ONEDNN_TYPE DNNL::dnnl TYPE)
if(DDAD_ONEDNN_TYPE STREQUAL "SHARED_LIBRARY")
  add_custom_command(
    TARGET ddad_addon POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E copy_if_different $<TARGET_FILE:DNNL::dnnl>
            $<TARGET_FILE_DIR:ddad_addon>/$<TARGET_SONAME_FILE_NAME:DNNL::dnnl>
    VERBATIM)
endif()
