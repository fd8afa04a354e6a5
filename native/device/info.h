#pragma once
#include <string>

#include "nlohmann/json.hpp"

namespace ddad {

/// {"version","cpu":{"name","isa","isas","processors"},"onednn":{"version","isa"},"devices":[...],"fallback" (why a
/// device "auto" of this process is the CPU; null where it is a GPU, and where nobody has asked for one),
/// "kernelChoices":{"file","count","problem"},"memory":{...}}.
nlohmann::json engineInfo();

/// What measurements on this processor depend on: its name, the instruction sets used, the version of the engine.
std::string processorKey();

}  // namespace ddad
