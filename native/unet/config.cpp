#include "unet/config.h"

#include <string>

#include "base/error.h"
#include "nlohmann/json.hpp"

namespace ddad {
namespace {

using nlohmann::json;

[[noreturn]] void fail(const std::string& field, const std::string& expected, const std::string& came) {
  throw Error("ERR_CONFIG", "unet." + field + ": expected " + expected + ", got " + came);
}

int64_t integer(const json& j, const char* field, int64_t low, int64_t high, int64_t fallback) {
  const auto it = j.find(field);
  if (it == j.end() || it->is_null()) {
    if (fallback < low && fallback != -1) fail(field, "a number", "nothing");
    return fallback;
  }
  const std::string range = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  if (!it->is_number_integer()) fail(field, range, it->dump().substr(0, 80));
  const auto value = it->get<int64_t>();
  if (value == -1 && fallback == -1) return value;
  if (value < low || value > high) fail(field, range, it->dump());
  return value;
}

bool flag(const json& j, const char* field) {
  const auto it = j.find(field);
  if (it == j.end() || it->is_null()) return false;
  if (!it->is_boolean()) fail(field, "true or false", it->dump().substr(0, 80));
  return it->get<bool>();
}

std::vector<int64_t> integers(const json& j, const char* field, int64_t high, bool required) {
  const auto it = j.find(field);
  std::vector<int64_t> values;
  if (it != j.end() && !it->is_null()) {
    if (!it->is_array() || it->size() > 16) fail(field, "a list of at most 16 integers", it->dump().substr(0, 80));
    for (const json& v : *it) {
      if (!v.is_number_integer() || v.get<int64_t>() < 1 || v.get<int64_t>() > high)
        fail(field, "integers from 1 to " + std::to_string(high), v.dump().substr(0, 80));
      values.push_back(v.get<int64_t>());
    }
  }
  if (required && values.empty()) fail(field, "a list of integers", "nothing");
  return values;
}

}  // namespace

UNetConfig UNetConfig::fromJson(const json& j) {
  if (!j.is_object()) throw Error("ERR_CONFIG", "unet: expected an object, got " + std::string(j.type_name()));
  UNetConfig c;
  c.imageSize = integer(j, "imageSize", 1, 4096, 0);
  c.inChannels = integer(j, "inChannels", 1, 4, 0);
  c.modelChannels = integer(j, "modelChannels", 32, 4096, 0);
  c.outChannels = integer(j, "outChannels", 1, 8, 2 * c.inChannels);
  c.numResBlocks = integer(j, "numResBlocks", 1, 16, 0);
  c.attentionResolutions = integers(j, "attentionResolutions", 4096, false);
  c.channelMult = integers(j, "channelMult", 64, true);
  c.numHeads = integer(j, "numHeads", 1, 256, 1);
  c.numHeadChannels = integer(j, "numHeadChannels", 1, 4096, -1);
  c.useScaleShiftNorm = flag(j, "useScaleShiftNorm");
  c.resblockUpdown = flag(j, "resblockUpdown");
  c.useNewAttentionOrder = flag(j, "useNewAttentionOrder");
  c.numClasses = integer(j, "numClasses", 0, 1000000, 0);
  c.featureChannels = integer(j, "featureChannels", 0, 65536, 0);
  if (c.modelChannels % 32 != 0)
    fail("modelChannels", "a multiple of 32 (the groups of its norms)", std::to_string(c.modelChannels));
  if (c.channelMult.size() > 8) fail("channelMult", "at most 8 levels", std::to_string(c.channelMult.size()));
  if (c.outChannels != 2 * c.inChannels)
    fail("outChannels", std::to_string(2 * c.inChannels) + " (noise and variance of each input channel)",
         std::to_string(c.outChannels));
  for (int64_t mult : c.channelMult)
    if (c.numHeadChannels > 0 && (mult * c.modelChannels) % c.numHeadChannels != 0)
      fail("numHeadChannels", "a divisor of " + std::to_string(mult * c.modelChannels),
           std::to_string(c.numHeadChannels));
  for (int64_t r : c.attentionResolutions)
    if (c.imageSize / r == 0) fail("attentionResolutions", "sizes up to imageSize", std::to_string(r));
  return c;
}

}  // namespace ddad
