#include "graph/memory_layout.h"

#include <algorithm>

namespace ddad {

MemoryLayout::MemoryLayout(const Graph& graph, const std::vector<std::unique_ptr<Op>>& ops,
                           std::vector<TensorMemory> tensors, bool training)
    : graph_(graph),
      ops_(ops),
      tensors_(std::move(tensors)),
      training_(training),
      lastUse_(tensors_.size(), -1),
      pinned_(tensors_.size(), false),
      valueId_(tensors_.size(), kNowhere),
      gradientId_(tensors_.size(), kNowhere),
      opMemory_(ops.size()) {
  findLastUses();
  placeInputs();
  for (size_t i = 0; i < ops_.size(); ++i) {
    placeValue(i);
    placeScratch(i);
  }
  if (training_) placeOutputGradients();
  for (size_t i = ops_.size(); i-- > 0;) placeInputGradients(i);
  keepInputGradients();
  arena_.place();
}

void MemoryLayout::findLastUses() {
  const auto use = [this](TensorId id, int step) { lastUse_[index(id)] = std::max(lastUse_[index(id)], step); };
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Op& op = *ops_[i];
    const bool backward = op.context().training;
    for (size_t k = 0; k < record(i).inputs.size(); ++k) {
      use(record(i).inputs[k], static_cast<int>(i));
      if (backward && op.backwardReadsInput(static_cast<int>(k))) use(record(i).inputs[k], backwardStep(i));
    }
    if (backward && op.backwardReadsOutput()) use(record(i).output, backwardStep(i));
  }
  for (TensorId id : graph_.inputs()) pinned_[index(id)] = true;
  for (TensorId id : graph_.outputs()) {
    pinned_[index(id)] = true;
    use(id, lossStep());
  }
}

void MemoryLayout::placeInputs() {
  for (TensorId id : graph_.inputs())
    valueId_[index(id)] = arena_.add(floatsOf(id), 0, std::max(lastUse_[index(id)], lossStep()));
}

/// The output of op i: over an input that nobody reads later where the op allows it, else in a buffer of its own.
void MemoryLayout::placeValue(size_t i) {
  const Op& op = *ops_[i];
  const size_t out = index(record(i).output);
  for (size_t k = 0; k < record(i).inputs.size() && valueId_[out] < 0; ++k) {
    const size_t in = index(record(i).inputs[k]);
    const bool sameMemory = tensors_[in].values == tensors_[out].values && tensors_[in].half == tensors_[out].half;
    if (op.mayOverwrite(static_cast<int>(k)) && lastUse_[in] == static_cast<int>(i) && !pinned_[in] && sameMemory)
      valueId_[out] = valueId_[in];
  }
  const int step = static_cast<int>(i);
  if (valueId_[out] < 0) valueId_[out] = arena_.add(tensors_[out].floats(), step, step);
  arena_.extend(valueId_[out], std::max(lastUse_[out], step));
}

/// What forward keeps for backward, and the scratch of both.
void MemoryLayout::placeScratch(size_t i) {
  const Op& op = *ops_[i];
  const bool backward = op.context().training;
  const int step = static_cast<int>(i);
  OpMemory& memory = opMemory_[i];
  if (op.savedFloats() > 0) memory.saved = arena_.add(op.savedFloats(), step, backward ? backwardStep(i) : step);
  if (op.forwardWorkspaceFloats() > 0) memory.forwardScratch = arena_.add(op.forwardWorkspaceFloats(), step, step);
  if (backward && op.backwardWorkspaceFloats() > 0)
    memory.backwardScratch = arena_.add(op.backwardWorkspaceFloats(), backwardStep(i), backwardStep(i));
}

void MemoryLayout::placeOutputGradients() {
  for (TensorId id : graph_.outputs())
    if (tensors_[index(id)].needsGradient) gradientId_[index(id)] = arena_.add(floatsOf(id), lossStep(), lossStep());
}

/// Called in the order of backward: the first op to touch a gradient writes it, later ones add to it.
void MemoryLayout::placeInputGradients(size_t i) {
  const Op& op = *ops_[i];
  std::vector<bool>& accumulate = opMemory_[i].accumulate;
  accumulate.assign(record(i).inputs.size(), false);
  if (!op.context().training) return;
  const TensorId out = record(i).output;
  const int outGradient = gradientId_[index(out)];
  if (outGradient < 0)
    throw Error("ERR_INTERNAL", "op " + record(i).name + " has a gradient to compute but nothing uses its output");
  arena_.extend(outGradient, backwardStep(i));
  for (size_t k = 0; k < record(i).inputs.size(); ++k) {
    if (!op.context().inputGradient[k]) continue;
    const TensorId in = record(i).inputs[k];
    int& id = gradientId_[index(in)];
    accumulate[k] = id >= 0;
    if (id < 0) {
      const bool same =
          op.gradientPassesThrough(static_cast<int>(k)) && tensors_[index(in)].half == tensors_[index(out)].half;
      id = same ? outGradient : arena_.add(floatsOf(in), backwardStep(i), backwardStep(i));
    }
    arena_.extend(id, backwardStep(i));
  }
}

/// Those of the graph's inputs are read after backward.
void MemoryLayout::keepInputGradients() {
  for (TensorId id : graph_.inputs())
    if (gradientId_[index(id)] >= 0) arena_.extend(gradientId_[index(id)], 2 * lossStep() + 1);
}

}  // namespace ddad
