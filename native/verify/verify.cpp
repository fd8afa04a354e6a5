#include "verify/verify.h"

#include "base/error.h"
#include "file/json_fields.h"
#include "file/safetensors.h"
#include "verify/compare.h"

namespace ddad {
namespace {

struct Kind {
  const char* name;
  void (*verify)(VerifyContext&);
};

constexpr Kind kKinds[] = {
    {"unet", verifyUnet},
    {"diffusion", verifyDiffusion},
    {"train", verifyTrain},
    {"features", verifyFeatures},
    {"score", verifyScore},
    {"sample", verifySample},
    {"gradient-reconstruction", verifyGradient},
};

nlohmann::json readSpec(const SafetensorsFile& file) {
  const auto entry = file.metadata().find("spec");
  if (entry == file.metadata().end())
    throw Error("ERR_MODEL_FORMAT", file.path() + ": expected a golden file with a spec in its metadata, got none");
  const nlohmann::json spec = parseJson(entry->second);
  if (!spec.is_object() || !spec.contains("kind") || !spec["kind"].is_string())
    throw Error("ERR_MODEL_FORMAT", file.path() + ": expected the spec to be a JSON object with a kind, got " +
                                        entry->second.substr(0, 80));
  return spec;
}

}  // namespace

nlohmann::json verifyFile(Device& device, const std::string& goldenPath, const std::string& backbonePath,
                          const Cancel& cancel) {
  const SafetensorsFile file = SafetensorsFile::open(goldenPath);
  const nlohmann::json spec = readSpec(file);
  const std::string name = spec["kind"];
  nlohmann::json result = {{"file", goldenPath}, {"kind", name}, {"ok", false}, {"tensors", nlohmann::json::array()}};
  const Kind* kind = nullptr;
  for (const Kind& known : kKinds)
    if (name == known.name) kind = &known;
  if (kind == nullptr) throw Error("ERR_MODEL_FORMAT", goldenPath + ": a golden file of unknown kind " + name);

  Comparison comparison(file);
  VerifyContext context{device, file, spec, backbonePath, cancel, comparison};
  cancel.check();
  try {
    kind->verify(context);
  } catch (const nlohmann::json::exception& error) {
    throw Error("ERR_MODEL_FORMAT", goldenPath + ": its spec lacks something: " + error.what());
  } catch (const Error& error) {
    // the engine's complaint about a configuration, an argument or numbers, all of which are the file's
    for (const char* code : {"ERR_CONFIG", "ERR_ARGUMENT", "ERR_NUMERIC"})
      if (error.code() == code) throw Error("ERR_MODEL_FORMAT", goldenPath + ": " + error.what());
    throw;
  }
  bool ok = false;
  result["tensors"] = comparison.finish(&ok);
  result["ok"] = ok;
  return result;
}

}  // namespace ddad
