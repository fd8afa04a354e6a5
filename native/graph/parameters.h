#pragma once
// Between a graph's parameter block and safetensors files.
#include <string>
#include <vector>

#include "file/safetensors.h"
#include "graph/graph.h"

namespace ddad {

/// Checks that the file has every parameter of the graph in its shape: then a block for them is no larger than a few
/// times the file, whatever a configuration says. Throws ERR_MODEL_FORMAT.
void checkParameters(const Graph& graph, const SafetensorsFile& file, const std::string& prefix);

/// Reads every parameter of the graph, stored as prefix + name, into `block`. Throws ERR_MODEL_FORMAT for a missing
/// tensor, a wrong shape or a value that is not finite.
void readParameters(const Graph& graph, const SafetensorsFile& file, const std::string& prefix, float* block);

/// Appends the parameters of `block` as prefix + name, float32.
void appendParameters(const Graph& graph, const std::string& prefix, const float* block,
                      std::vector<TensorToWrite>& tensors);

}  // namespace ddad
