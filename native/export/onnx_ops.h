#pragma once
// From op records to ONNX nodes: a table with a row for each OpKind. Spatial tensors are NCHW there.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "export/onnx_model.h"
#include "graph/graph.h"

namespace ddad {

/// Reads one parameter into memory of its size. Throws ERR_MODEL_FORMAT.
using ParameterReader = std::function<void(const ParamSpec&, float*)>;

/// Heights and widths of what the network sees, where they are fixed.
struct OnnxSize {
  int64_t height, width;
};

/// How a graph's ops become nodes.
struct OnnxNetwork {
  const Graph* graph;
  ParameterReader read;  // must outlive the model
  std::string prefix;    // of the parameters' names in the model
  std::optional<OnnxSize> size;
  std::vector<int> timesteps;  // what the rows of the embedding's table stand for: t is an index into them
};

/// Appends every op of the network. `values` has a value for each of the graph's inputs, at its tensor's id, and gets
/// those of all other tensors; vectors are [N, C], but labels and t are int64 [N]. Throws ERR_INTERNAL for an op
/// without a row in the table.
void appendNetwork(OnnxModel& model, const OnnxNetwork& network, std::vector<OnnxValue>& values);

/// Whether the table has a row for the kind.
bool hasOnnxMapping(OpKind kind);

}  // namespace ddad
