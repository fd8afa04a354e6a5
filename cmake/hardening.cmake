# ddad_hardening: what makes a memory error harder to use. scripts/check-hardening.mjs looks for it in what was built.
add_library(ddad_hardening INTERFACE)
include(CheckCXXCompilerFlag)
# Not under the sanitizers, which watch the same calls with checks of their own.
if(NOT DDAD_SANITIZE AND NOT DDAD_FUZZ)
  check_cxx_compiler_flag(-fstack-clash-protection DDAD_HAS_STACK_CLASH)
  check_cxx_compiler_flag(-fcf-protection=full DDAD_HAS_CF_PROTECTION)
  target_compile_options(
    ddad_hardening
    INTERFACE -fstack-protector-strong
              # some compilers define it themselves, and a level of theirs must not stay
              $<$<CONFIG:Release>:-U_FORTIFY_SOURCE>
              $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=3>
              $<$<BOOL:${DDAD_HAS_STACK_CLASH}>:-fstack-clash-protection>
              $<$<BOOL:${DDAD_HAS_CF_PROTECTION}>:-fcf-protection=full>)
endif()
if(NOT APPLE)
  target_link_options(ddad_hardening INTERFACE -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,-z,separate-code)
endif()
