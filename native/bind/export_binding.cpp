#include "bind/export_binding.h"

#include <string>
#include <utility>

#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"
#include "bind/napi/env_data.h"
#include "bind/napi/errors.h"
#include "bind/napi/resource.h"
#include "export/export.h"
#include "file/json_fields.h"

namespace ddad::bind {
namespace {

constexpr int64_t kMaxSide = 65536, kMaxLabel = 1000000;

OnnxOptions onnxOptions(const nlohmann::json& json) {
  OnnxOptions options;
  const std::string graph = textOption(json, "graph", "unet", "exportOnnx: options");
  if (graph != "unet" && graph != "score")
    throwArgument("exportOnnx: options.graph", "unet or score", "\"" + graph + "\"");
  options.score = graph == "score";
  options.head = booleanField(json, "head", true);
  options.external = booleanField(json, "external", false);
  options.constantNoise = booleanField(json, "ownNoise", true);
  options.label = static_cast<int>(integerField(json, "label", 0, kMaxLabel, 0));
  options.width = integerField(json, "width", 0, kMaxSide, 0);
  options.height = integerField(json, "height", 0, kMaxSide, 0);
  const auto config = json.find("config");
  if (config != json.end() && !config->is_null()) options.config = requireObject(json, "config");
  return options;
}

/// Runs `work`, which returns what it has written, on the compute thread.
template <class F>
Napi::Value submit(const Napi::CallbackInfo& call, const std::string& name, F prepare) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(call[0], name + ": path");
    std::string out = expectPath(call[1], name + ": out");
    auto work = prepare(expectJson(call[2], name + ": options"));
    CancelToken& token = expectToken(call[3], name + ": token");
    EnvData::of(call.Env())
        .submit(
            deferred, nullptr, &token,
            [path = std::move(path), out = std::move(out), work = std::move(work)](const Cancel& cancel) -> ToValue {
              std::string written = toText(work(path, out, cancel));
              return [written = std::move(written)](Napi::Env env) { return Napi::String::New(env, written); };
            });
  });
}

}  // namespace

Napi::Value exportOnnx(const Napi::CallbackInfo& call) {
  return submit(call, "exportOnnx", [](const nlohmann::json& json) {
    return [options = onnxOptions(json)](const std::string& path, const std::string& out, const Cancel& cancel) {
      return ddad::exportOnnx(path, out, options, cancel);
    };
  });
}

Napi::Value exportWeights(const Napi::CallbackInfo& call) {
  return submit(call, "exportWeights", [](const nlohmann::json& json) {
    return [head = booleanField(json, "head", true)](const std::string& path, const std::string& out,
                                                     const Cancel& cancel) {
      return ddad::exportWeights(path, out, head, cancel);
    };
  });
}

}  // namespace ddad::bind
