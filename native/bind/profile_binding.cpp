#include "bind/profile_binding.h"

#include <string>
#include <utility>

#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"
#include "bind/napi/env_data.h"
#include "bind/napi/errors.h"
#include "bind/napi/resource.h"
#include "device/device.h"
#include "profile/profile.h"

namespace ddad::bind {
namespace {

constexpr double kMaxBatch = 4096, kMaxSamples = 1e6, kMaxSeconds = 3600;

double numberOption(const nlohmann::json& options, const char* name, double min, double max) {
  const auto option = options.find(name);
  const std::string what = std::string("profile: options.") + name;
  const auto expected = "a number from " + toText(min) + " to " + toText(max);
  if (option == options.end()) throwArgument(what, expected, "nothing");
  const bool fits = option->is_number() && option->get<double>() >= min && option->get<double>() <= max;
  if (!fits) throwArgument(what, expected, toText(*option));
  return option->get<double>();
}

nlohmann::json measure(const std::string& what, const nlohmann::json& config, const DeviceOptions& device,
                       const ProfileOptions& options, const Cancel& cancel) {
  const auto opened = device.open();
  if (what == "ceiling") return profileCeiling(*opened, options.repetition, cancel);
  if (what == "pass") return profilePass(*opened, config, options.batch, options.repetition, cancel);
  return profileOps(*opened, config, options, cancel);
}

}  // namespace

Napi::Value profile(const Napi::CallbackInfo& call) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    std::string what = expectString(call[0], "profile: what");
    if (what != "ceiling" && what != "forward" && what != "backward" && what != "pass")
      throwArgument("profile: what", "ceiling, forward, backward or pass", "\"" + what + "\"");
    nlohmann::json config = expectJson(call[1], "profile: config");
    const nlohmann::json json = expectJson(call[2], "profile: options");
    CancelToken& token = expectToken(call[3], "profile: token");
    DeviceOptions device = deviceOptions(json, "profile: options");
    ProfileOptions options;
    options.batch = static_cast<int64_t>(numberOption(json, "batch", 1, kMaxBatch));
    options.training = what == "backward";
    options.repetition.samples = static_cast<int64_t>(numberOption(json, "samples", 1, kMaxSamples));
    options.repetition.seconds = numberOption(json, "seconds", 0, kMaxSeconds);
    EnvData::of(call.Env())
        .submit(deferred, nullptr, &token,
                [what = std::move(what), config = std::move(config), device = std::move(device),
                 options](const Cancel& cancel) -> ToValue {
                  std::string text = toText(measure(what, config, device, options, cancel));
                  return [text = std::move(text)](Napi::Env env) { return Napi::String::New(env, text); };
                });
  });
}

}  // namespace ddad::bind
