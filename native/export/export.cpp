#include "export/export.h"

#include "base/error.h"
#include "export/onnx_model.h"
#include "export/score_graph.h"
#include "export/source.h"
#include "export/unet_graph.h"

namespace ddad {
namespace {

using nlohmann::json;

json describe(const std::vector<OnnxPort>& ports) {
  auto list = json::array();
  for (const OnnxPort& port : ports) {
    auto shape = json::array();
    for (const OnnxDim& dim : port.shape) std::visit([&](const auto& d) { shape.push_back(d); }, dim);
    list.push_back(
        {{"name", port.name}, {"type", port.integer ? "int64" : "float32"}, {"shape", shape}, {"about", port.about}});
  }
  return list;
}

/// What whoever runs the scoring graph has to do himself.
std::vector<std::string> leftOut(const ExportSource& source, const ScoreSetup& setup) {
  const std::string size = std::to_string(setup.imageWidth()) + " x " + std::to_string(setup.imageHeight());
  const bool whole = source.config().at("input").value("mode", "") == "resize";
  return {"decoding an image and bringing its pixels to [-1, 1]",
          whole ? "resizing the image to " + size + ", and the maps to its own size"
                : "mirroring the borders of images smaller than " + size + ", and tiles of larger ones",
          "the verdict: whether the score is above the threshold"};
}

}  // namespace

json exportOnnx(const std::string& path, const std::string& out, const OnnxOptions& options, const Cancel& cancel) {
  const ExportSource source(path, options.score || options.head);
  OnnxModel model(options.score ? "ddad-score" : "guided-diffusion-unet");
  json scores = json(), leaves = json::array();
  ScoreSetup setup;
  if (options.score) {
    setup = openScoreSetup(source, options);
    buildScoreGraph(model, source, setup);
    scores = setup.config.steps;
    leaves = leftOut(source, setup);
  } else {
    buildUNetGraph(model, source);
    leaves = {"noising, the scores, their calibration and the backbone: the graph score has them"};
  }
  json config = options.config.is_null() ? source.config() : options.config;
  config.erase("checkpoint");
  model.metadata("ddad.graph", options.score ? "score" : "unet");
  model.metadata("ddad.config", config.dump());
  json result = {{"graph", options.score ? "score" : "unet"},
                 {"opset", kOnnxOpset},
                 {"irVersion", kOnnxIrVersion},
                 {"scales", scores},
                 {"nodes", model.nodeCount()},
                 {"parameters", model.weightFloats()},
                 {"inputs", describe(model.inputs())},
                 {"outputs", describe(model.outputs())},
                 {"leavesOut", leaves},
                 {"files", json::array()}};
  for (const OnnxModel::File& file : model.write(out, options.external, cancel))
    result["files"].push_back({{"path", file.path}, {"bytes", file.bytes}});
  return result;
}

}  // namespace ddad
