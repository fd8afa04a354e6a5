// Names and shapes of arbitrary networks, of which import has to say what they are.
#include "import/importer.h"
#include "support.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  static MemoryFile memory("import");
  openInput(memory, input);
  const nlohmann::json given = {{"unet", {{"imageSize", 48}, {"numHeads", 3}}}, {"dropLabels", true}};
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    Importer importer(memory.path());
    mayFail({"ERR_MODEL_FORMAT"}, [&] { importer.inspect(nlohmann::json::object()).dump(); });
    mayFail({"ERR_MODEL_FORMAT", "ERR_CONFIG"}, [&] { importer.inspect(given).dump(); });
  });
}

std::vector<std::string> seeds() {
  std::vector<std::string> files;
  for (const bool features : {false, true}) files.push_back(seedFile({}, tinyModel(tinyConfig(features), {""})));
  files.push_back(seedFile({}, tinyModel(tinyConfig(false), {"ema.", "model."})));
  return files;
}

const Registered registered({"import", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
