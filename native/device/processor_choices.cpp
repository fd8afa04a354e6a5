// Apart from the rest of Choices, which the library of the CUDA device has, too: it knows no processor.
#include "device/choices.h"
#include "device/info.h"

namespace ddad {

Choices& Choices::ofThisProcessor() {
  static Choices choices(defaultPath(), processorKey());
  return choices;
}

}  // namespace ddad
