#include "graph/graph.h"

#include <algorithm>

#include "base/error.h"

namespace ddad {

TensorId Graph::addTensor(std::string name, int64_t channels, int level) {
  tensors_.push_back({std::move(name), channels, level});
  return static_cast<TensorId>(tensors_.size()) - 1;
}

ParamId Graph::addParam(std::string name, std::vector<int64_t> shape) {
  if (!names_.insert(name).second) throw Error("ERR_INTERNAL", "parameter " + name + " is defined twice");
  params_.push_back({std::move(name), std::move(shape), parameterFloats_});
  parameterFloats_ += (params_.back().size() + 15) / 16 * 16;
  return static_cast<ParamId>(params_.size()) - 1;
}

TensorId Graph::addOp(OpKind kind, std::string name, std::vector<TensorId> inputs, int64_t outChannels, int outLevel,
                      std::vector<ParamId> params, OpAttributes attr) {
  const TensorId out = addTensor(name, outChannels, outLevel);
  ops_.push_back({kind, std::move(name), std::move(inputs), out, std::move(params), attr});
  return out;
}

int Graph::maxLevel() const {
  int level = 0;
  for (const TensorSpec& t : tensors_) level = std::max(level, t.level);
  return level;
}

}  // namespace ddad
