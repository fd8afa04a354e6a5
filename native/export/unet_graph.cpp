#include "export/unet_graph.h"

#include <numeric>

#include "file/json_fields.h"

namespace ddad {

void buildUNetGraph(OnnxModel& model, const ExportSource& source) {
  const UNet& net = source.net();
  const Graph& graph = net.graph;
  const int64_t unit = int64_t{1} << graph.maxLevel(), in = graph.tensor(net.x).channels;
  const nlohmann::json diffusion = source.config().value("diffusion", nlohmann::json::object());
  const int64_t steps = integerField(diffusion, "steps", 2, 100000, 1000);

  std::vector<OnnxValue> values(graph.tensors().size());
  const auto set = [&](TensorId id, OnnxPort port) { values[static_cast<size_t>(id)] = model.input(std::move(port)); };
  const std::string sizes = unit > 1 ? ", height and width multiples of " + std::to_string(unit) : "";
  set(net.x, {"x", false, {"batch", in, "height", "width"}, "x_t, in the range of images from -1 to 1" + sizes});
  set(net.t, {"t", true, {"batch"}, "step of the original chain, from 0 to " + std::to_string(steps - 1)});
  if (net.y >= 0) set(net.y, {"y", true, {"batch"}, "class"});

  OnnxNetwork network{&graph, source.reader(), "", std::nullopt, std::vector<int>(static_cast<size_t>(steps))};
  std::iota(network.timesteps.begin(), network.timesteps.end(), 0);
  appendNetwork(model, network, values);
  model.output({"out",
                false,
                {"batch", graph.tensor(net.out).channels, "height", "width"},
                "eps in the first half of the channels, v of the variance in the second"},
               values[static_cast<size_t>(net.out)]);
  if (net.features >= 0)
    model.output({"fhat",
                  false,
                  {"batch", graph.tensor(net.features).channels, "height / 4", "width / 4"},
                  "the predicted features of x_0"},
                 values[static_cast<size_t>(net.features)]);
}

}  // namespace ddad
