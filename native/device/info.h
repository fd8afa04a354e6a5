#pragma once
#include "nlohmann/json.hpp"

namespace ddad {

/// {"version","cpu":{"name","isa","isas","processors"},"onednn":{"version","isa"},"devices":[...],"memory":{...}}.
nlohmann::json engineInfo();

}  // namespace ddad
