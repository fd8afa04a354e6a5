#pragma once
// Where everything lies that a compiled graph computes: one arena, in which buffers share memory where their lifetimes
// do not meet. Time is counted in steps: forward of op i runs at step i, the loss comes after the last of them, and
// backward of op i runs at step 2 * ops - i.
#include <cstdint>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "graph/op.h"

namespace ddad {

/// A tensor as the layout sees it.
struct TensorMemory {
  int64_t values = 0;  // of any type
  bool half = false;   // bf16, not float32
  bool needsGradient = false;
  int64_t floats() const { return half ? (values + 1) / 2 : values; }
};

class MemoryLayout {
 public:
  static constexpr int kNowhere = -1;

  /// What an op has beside its tensors, as ids of the arena's buffers.
  struct OpMemory {
    int saved = kNowhere, forwardScratch = kNowhere, backwardScratch = kNowhere;
    std::vector<bool> accumulate;  // per input: its gradient is there already, and is added to
  };

  /// `ops` are those of `graph`, in its order; `tensors` has an entry for each of its tensors.
  MemoryLayout(const Graph& graph, const std::vector<std::unique_ptr<Op>>& ops, std::vector<TensorMemory> tensors,
               bool training);

  /// Floats of the arena.
  int64_t floats() const { return arena_.total(); }
  const OpMemory& op(size_t i) const { return opMemory_[i]; }
  /// Where a tensor, its gradient or an op's memory lies in an arena that starts at `base`; null for what is nowhere.
  float* value(TensorId id, float* base) const { return at(valueId_[index(id)], base); }
  float* gradient(TensorId id, float* base) const { return at(gradientId_[index(id)], base); }
  float* at(int buffer, float* base) const { return buffer < 0 ? nullptr : base + arena_.offset(buffer); }

 private:
  static size_t index(TensorId id) { return static_cast<size_t>(id); }
  int lossStep() const { return static_cast<int>(ops_.size()); }
  int backwardStep(size_t i) const { return 2 * lossStep() - static_cast<int>(i); }
  const OpRecord& record(size_t i) const { return graph_.ops()[i]; }
  int64_t floatsOf(TensorId id) const { return tensors_[index(id)].floats(); }

  void findLastUses();
  void placeInputs();
  void placeValue(size_t i);
  void placeScratch(size_t i);
  void placeOutputGradients();
  void placeInputGradients(size_t i);
  void keepInputGradients();

  const Graph& graph_;
  const std::vector<std::unique_ptr<Op>>& ops_;
  std::vector<TensorMemory> tensors_;
  bool training_;
  ArenaPlan arena_;
  std::vector<int> lastUse_;  // per tensor: the last step that reads its value
  std::vector<bool> pinned_;  // per tensor: the caller reads or writes it, so that nothing may overwrite it
  std::vector<int> valueId_, gradientId_;  // per tensor: buffers of the arena
  std::vector<OpMemory> opMemory_;
};

}  // namespace ddad
