#include "ops/graph.h"

#include <algorithm>

#include "tensor/error.h"

namespace ddad {

const char* opKindName(OpKind kind) {
  static const char* const kNames[] = {"conv",      "depthwise_conv",     "group_norm",
                                       "linear",    "timestep_embedding", "label_embedding",
                                       "attention", "upsample",           "avg_pool"};
  return kNames[static_cast<int>(kind)];
}

TensorId Graph::addTensor(std::string name, int64_t channels, int level) {
  tensors_.push_back({std::move(name), channels, level});
  return static_cast<TensorId>(tensors_.size()) - 1;
}

ParamId Graph::addParam(std::string name, std::vector<int64_t> shape) {
  const auto id = static_cast<ParamId>(params_.size());
  if (!byName_.emplace(name, id).second) throw Error("ERR_INTERNAL", "parameter " + name + " is defined twice");
  params_.push_back({std::move(name), std::move(shape), parameterFloats_});
  parameterFloats_ += (params_.back().size() + 15) / 16 * 16;
  return id;
}

TensorId Graph::addOp(OpKind kind, std::string name, std::vector<TensorId> inputs, int64_t outChannels, int outLevel,
                      std::vector<ParamId> params, OpAttributes attr) {
  const TensorId out = addTensor(name, outChannels, outLevel);
  ops_.push_back({kind, std::move(name), std::move(inputs), out, std::move(params), attr});
  return out;
}

ParamId Graph::findParam(const std::string& name) const {
  const auto it = byName_.find(name);
  return it == byName_.end() ? -1 : it->second;
}

int64_t Graph::parameterCount() const {
  int64_t n = 0;
  for (const ParamSpec& p : params_) n += p.size();
  return n;
}

int Graph::maxLevel() const {
  int level = 0;
  for (const TensorSpec& t : tensors_) level = std::max(level, t.level);
  return level;
}

}  // namespace ddad
