# ddad_options: what every target of ours compiles and links with. Headers of others are SYSTEM: no warnings from them.
add_library(ddad_options INTERFACE)
target_compile_options(ddad_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wvla)
if(DDAD_WERROR)
  target_compile_options(ddad_options INTERFACE -Werror)
endif()
if(DDAD_SANITIZE)
  # UBSan stops at the first finding instead of printing and going on.
  set(DDAD_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(ddad_options INTERFACE ${DDAD_SANITIZE_FLAGS})
  target_link_options(ddad_options INTERFACE ${DDAD_SANITIZE_FLAGS})
endif()
target_include_directories(ddad_options INTERFACE ${CMAKE_SOURCE_DIR}/native)
target_include_directories(ddad_options SYSTEM INTERFACE ${CMAKE_SOURCE_DIR}/third_party)
