#include "graph/parameters.h"

namespace ddad {

void checkParameters(const Graph& graph, const SafetensorsFile& file, const std::string& prefix) {
  for (const ParamSpec& p : graph.params()) file.checkShape(prefix + p.name, p.shape);
}

void readParameters(const Graph& graph, const SafetensorsFile& file, const std::string& prefix, float* block) {
  for (const ParamSpec& p : graph.params()) file.readFloats(prefix + p.name, p.shape, block + p.offset);
}

void appendParameters(const Graph& graph, const std::string& prefix, const float* block,
                      std::vector<TensorToWrite>& tensors) {
  for (const ParamSpec& p : graph.params())
    tensors.push_back({prefix + p.name, DType::kF32, p.shape, block + p.offset});
}

}  // namespace ddad
