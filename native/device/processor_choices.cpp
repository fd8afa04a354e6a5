// Apart from the rest of Choices, which the library of the CUDA device has, too: it knows no processor.
#include "device/choices.h"
#include "device/info.h"

namespace ddad {

Choices& Choices::ofThisProcessor() {
  // Never destroyed: while the process exits, a thread may still be measuring.
  static auto* const choices = new Choices(defaultPath(), processorKey());
  return *choices;
}

}  // namespace ddad
