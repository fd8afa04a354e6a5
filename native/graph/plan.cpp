#include "graph/plan.h"

#include <algorithm>

#include "base/arena.h"

namespace ddad {
namespace {

constexpr int64_t kMostFloats = int64_t{1} << 40;  // of a tensor: sums over all ops and their scratch fit 64 bits

Shape shapeOf(const TensorSpec& spec, const PlanOptions& options) {
  Shape shape{options.batch, 1, 1, spec.channels};
  if (spec.level != TensorSpec::kVector) {
    const int64_t unit = int64_t{1} << spec.level;
    shape.h = (options.height - 1) / unit + 1;
    shape.w = (options.width - 1) / unit + 1;
  }
  int64_t floats = shape.n;
  for (int64_t extent : {shape.h, shape.w, shape.c})
    if (__builtin_mul_overflow(floats, extent, &floats)) floats = kMostFloats + 1;
  if (floats > kMostFloats)
    throw Error("ERR_MEMORY", "no memory holds " + spec.name + " for a batch of " + std::to_string(options.batch) +
                                  " at " + std::to_string(options.height) + " x " + std::to_string(options.width));
  return shape;
}

}  // namespace

Plan::Plan(const Device& device, const Graph& graph, const PlanOptions& options, ParameterBlock& parameters,
           PlanMemory* memory)
    : Plan(device, graph, options) {
  onDevice_ = &parameters.on(device, graph, options.training && options.paramGradients);
  compile();
  placeMemory(memory);
  forwardRecording_ = device.record();
  if (options.training) backwardRecording_ = device.record();
}

Plan::Plan(const Device& device, const Graph& graph, const PlanOptions& options)
    : device_(device), graph_(graph), options_(options) {
  if (options.batch < 1 || options.height < 1 || options.width < 1)
    throw Error("ERR_CONFIG", "a plan needs a batch, height and width of at least 1");
}

Plan::Needs Plan::needs(const Device& device, const Graph& graph, const PlanOptions& options) {
  Plan plan(device, graph, options);
  plan.compile();
  plan.placeMemory(nullptr);
  return {plan.activationBytes(), plan.packedFloats() * static_cast<int64_t>(sizeof(float)), plan.flops()};
}

bool Plan::isHalf(TensorId id) const { return half_[static_cast<size_t>(id)]; }

/// What a tensor takes in the arena.
int64_t Plan::floatsOf(TensorId id) const {
  const int64_t size = shapes_[static_cast<size_t>(id)].size();
  return isHalf(id) ? (size + 1) / 2 : size;
}

void Plan::compile() {
  for (const TensorSpec& t : graph_.tensors()) shapes_.push_back(shapeOf(t, options_));
  half_.assign(shapes_.size(), false);
  if (device_.precision() == Precision::kBf16 && !options_.float32) {
    for (size_t t = 0; t < shapes_.size(); ++t) half_[t] = graph_.tensors()[t].level != TensorSpec::kVector;
    for (const auto* ends : {&graph_.inputs(), &graph_.outputs()})
      for (TensorId id : *ends)
        if (!options_.halfEnds) half_[static_cast<size_t>(id)] = false;
  }
  // A tensor needs a gradient when something that is wanted (a parameter, an input image) lies upstream of it.
  needsGradient_.assign(shapes_.size(), false);
  if (options_.training && options_.inputGradients)
    for (TensorId id : graph_.inputs())
      if (graph_.tensor(id).level != TensorSpec::kVector) needsGradient_[static_cast<size_t>(id)] = true;
  for (const OpRecord& record : graph_.ops()) {
    checkCancelled();  // kernels may be measured for it
    OpContext context;
    context.device = &device_;
    context.record = &record;
    bool upstream = options_.paramGradients && !record.params.empty();
    for (TensorId id : record.inputs) {
      const auto index = static_cast<size_t>(id);
      context.in.push_back(shapes_[index]);
      context.inHalf.push_back(half_[index]);
      context.inputGradient.push_back(options_.training && needsGradient_[index]);
      upstream = upstream || needsGradient_[index];
    }
    context.out = shapes_[static_cast<size_t>(record.output)];
    context.outHalf = isHalf(record.output);
    context.layoutOnly = onDevice_ == nullptr;
    needsGradient_[static_cast<size_t>(record.output)] = options_.training && upstream;
    context.training = options_.training && upstream;
    context.paramGradient = options_.training && options_.paramGradients && !record.params.empty();
    ops_.push_back(compileOp(std::move(context)));
  }
}

void Plan::placeMemory(PlanMemory* memory) {
  const auto count = static_cast<int>(ops_.size());
  const int lossStep = count;  // backward of op i runs at step 2 * count - i
  const auto backwardStep = [&](int i) { return 2 * count - i; };
  const size_t tensors = shapes_.size();
  ArenaPlan arena;

  // Lifetimes of values and gradients. An op's output may take over an input's buffer that nobody reads later.
  std::vector<int> lastUse(tensors, -1), valueId(tensors, -1), gradientId(tensors, -1);
  std::vector<bool> keptForBackward(tensors, false);
  for (int i = 0; i < count; ++i) {
    const OpRecord& record = graph_.ops()[static_cast<size_t>(i)];
    const Op& op = *ops_[static_cast<size_t>(i)];
    for (size_t k = 0; k < record.inputs.size(); ++k) {
      const auto index = static_cast<size_t>(record.inputs[k]);
      lastUse[index] = std::max(lastUse[index], i);
      if (op.context().training && op.backwardReadsInput(static_cast<int>(k))) {
        lastUse[index] = std::max(lastUse[index], backwardStep(i));
        keptForBackward[index] = true;
      }
    }
    const auto out = static_cast<size_t>(record.output);
    if (op.context().training && op.backwardReadsOutput()) {
      lastUse[out] = std::max(lastUse[out], backwardStep(i));
      keptForBackward[out] = true;
    }
  }
  std::vector<bool> pinned(tensors, false);
  for (TensorId id : graph_.inputs()) pinned[static_cast<size_t>(id)] = true;
  for (TensorId id : graph_.outputs()) {
    pinned[static_cast<size_t>(id)] = true;
    lastUse[static_cast<size_t>(id)] = std::max(lastUse[static_cast<size_t>(id)], lossStep);
  }
  for (TensorId id : graph_.inputs())
    valueId[static_cast<size_t>(id)] = arena.add(floatsOf(id), 0, std::max(lastUse[static_cast<size_t>(id)], lossStep));

  std::vector<int> saved(ops_.size(), -1), forwardScratch(ops_.size(), -1), backwardScratch(ops_.size(), -1);
  for (int i = 0; i < count; ++i) {
    const OpRecord& record = graph_.ops()[static_cast<size_t>(i)];
    const Op& op = *ops_[static_cast<size_t>(i)];
    const auto out = static_cast<size_t>(record.output);
    for (size_t k = 0; k < record.inputs.size() && valueId[out] < 0; ++k) {
      const auto index = static_cast<size_t>(record.inputs[k]);
      if (op.mayOverwrite(static_cast<int>(k)) && lastUse[index] == i && !pinned[index] &&
          shapes_[index].size() == shapes_[out].size() && half_[index] == half_[out])
        valueId[out] = valueId[index];
    }
    if (valueId[out] < 0) valueId[out] = arena.add(floatsOf(record.output), i, i);
    arena.extend(valueId[out], std::max(lastUse[out], i));
    const int end = op.context().training ? backwardStep(i) : i;
    if (op.savedFloats() > 0) saved[static_cast<size_t>(i)] = arena.add(op.savedFloats(), i, end);
    if (op.forwardWorkspaceFloats() > 0)
      forwardScratch[static_cast<size_t>(i)] = arena.add(op.forwardWorkspaceFloats(), i, i);
    if (op.context().training && op.backwardWorkspaceFloats() > 0)
      backwardScratch[static_cast<size_t>(i)] =
          arena.add(op.backwardWorkspaceFloats(), backwardStep(i), backwardStep(i));
  }

  // Gradients, in the order of backward: the first op to touch a gradient writes it, later ones add to it.
  std::vector<std::vector<bool>> accumulate(ops_.size());
  if (options_.training)
    for (TensorId id : graph_.outputs())
      if (needsGradient_[static_cast<size_t>(id)])
        gradientId[static_cast<size_t>(id)] = arena.add(floatsOf(id), lossStep, lossStep);
  for (int i = count - 1; i >= 0; --i) {
    const OpRecord& record = graph_.ops()[static_cast<size_t>(i)];
    const Op& op = *ops_[static_cast<size_t>(i)];
    auto& flags = accumulate[static_cast<size_t>(i)];
    flags.assign(record.inputs.size(), false);
    if (!op.context().training) continue;
    const int outGradient = gradientId[static_cast<size_t>(record.output)];
    if (outGradient < 0)
      throw Error("ERR_INTERNAL", "op " + record.name + " has a gradient to compute but nothing uses its output");
    arena.extend(outGradient, backwardStep(i));
    for (size_t k = 0; k < record.inputs.size(); ++k) {
      if (!op.context().inputGradient[k]) continue;
      int& id = gradientId[static_cast<size_t>(record.inputs[k])];
      flags[k] = id >= 0;
      if (id < 0) {
        if (op.gradientPassesThrough(static_cast<int>(k)) && isHalf(record.inputs[k]) == isHalf(record.output))
          id = outGradient;
        else
          id = arena.add(floatsOf(record.inputs[k]), backwardStep(i), backwardStep(i));
      }
      arena.extend(id, backwardStep(i));
    }
  }
  for (TensorId id : graph_.inputs())
    if (gradientId[static_cast<size_t>(id)] >= 0) arena.extend(gradientId[static_cast<size_t>(id)], 2 * count + 1);

  arena.place();
  arenaFloats_ = arena.total();
  if (!onDevice_) return;
  if (memory && memory->arena && memory->arena->size() >= arenaFloats_) {
    arena_ = memory->arena;
  } else {
    arena_ = std::make_shared<DeviceBuffer>(device_, arenaFloats_);
    if (memory) memory->arena = arena_;
  }
  const auto at = [&](int id) { return id < 0 ? nullptr : arena_->data() + arena.offset(id); };
  for (size_t t = 0; t < tensors; ++t) {
    values_.push_back(at(valueId[t]));
    gradients_.push_back(at(gradientId[t]));
  }

  takePacked(memory);
  float* packed = packed_->data();
  for (size_t i = 0; i < ops_.size(); ++i) {
    const OpRecord& record = graph_.ops()[i];
    OpBuffers b;
    for (size_t k = 0; k < record.inputs.size(); ++k) {
      const auto index = static_cast<size_t>(record.inputs[k]);
      b.in.push_back(values_[index]);
      b.inGrad.push_back(ops_[i]->context().inputGradient[k] ? gradients_[index] : nullptr);
    }
    b.out = values_[static_cast<size_t>(record.output)];
    b.outGrad = gradients_[static_cast<size_t>(record.output)];
    b.accumulate = accumulate[i];
    for (ParamId id : record.params) {
      const int64_t offset = graph_.param(id).offset;
      void* const half = options_.float32 ? nullptr : onDevice_->half();
      b.param.push_back(onDevice_->values() + offset);
      b.paramHalf.push_back(half ? static_cast<const char*>(half) + 2 * offset : nullptr);
      b.paramGrad.push_back(ops_[i]->context().paramGradient ? onDevice_->gradients() + offset : nullptr);
    }
    b.saved = at(saved[i]);
    b.packed = packed;
    packed += (ops_[i]->packedFloats() + 15) / 16 * 16;
    // forward and backward of one op never run at once: two scratch areas, one pointer each
    b.workspace = at(forwardScratch[i]);
    b.backwardWorkspace = at(backwardScratch[i]);
    ops_[i]->bind(b);
  }
}

int64_t Plan::packedFloats() const {
  int64_t floats = 0;
  for (const auto& op : ops_) floats += (op->packedFloats() + 15) / 16 * 16;
  return floats;
}

void Plan::takePacked(PlanMemory* memory) {
  const int64_t floats = packedFloats();
  std::vector<int64_t> layout;  // kernels of different layouts differ in name or size
  for (const auto& op : ops_) {
    layout.push_back(op->packedFloats());
    layout.push_back(op->kernelName()[0]);
  }
  if (memory && memory->packed && memory->packedLayout == layout) {
    packed_ = memory->packed;
    shared_ = true;
    return;
  }
  packed_ = std::make_shared<PackedWeights>(device_, floats);
  if (!memory) return;
  memory->packed = packed_;
  memory->packedLayout = std::move(layout);
}

void Plan::prepare() {
  if (shared_ && packed_->ready) return;
  packed_->ready = false;
  for (const auto& op : ops_) {
    checkCancelled();
    op->prepare();
  }
  packed_->ready = true;
}

void Plan::forward(const Cancel& cancel) {
  cancel.check();
  if (forwardRecording_)
    return forwardRecording_->run(
        [](void* plan) {
          for (const auto& op : static_cast<Plan*>(plan)->ops_) op->forward();
        },
        this);
  for (const auto& op : ops_) {
    cancel.check();
    op->forward();
  }
}

void Plan::backward(const Cancel& cancel) {
  cancel.check();
  if (backwardRecording_)
    return backwardRecording_->run(
        [](void* plan) {
          const auto& ops = static_cast<Plan*>(plan)->ops_;
          for (auto op = ops.rbegin(); op != ops.rend(); ++op)
            if ((*op)->context().training) (*op)->backward();
        },
        this);
  for (auto op = ops_.rbegin(); op != ops_.rend(); ++op) {
    cancel.check();
    if ((*op)->context().training) (*op)->backward();
  }
}

void Plan::write(TensorId id, const float* from) const {
  device_.upload(value(id), from, shape(id).size() * static_cast<int64_t>(sizeof(float)));
  device_.synchronize();
}
void Plan::read(TensorId id, float* to) const {
  device_.download(to, value(id), shape(id).size() * static_cast<int64_t>(sizeof(float)));
  device_.synchronize();
}
void Plan::writeGradient(TensorId id, const float* from) const {
  device_.upload(gradient(id), from, shape(id).size() * static_cast<int64_t>(sizeof(float)));
  device_.synchronize();
}
void Plan::readGradient(TensorId id, float* to) const {
  device_.download(to, gradient(id), shape(id).size() * static_cast<int64_t>(sizeof(float)));
  device_.synchronize();
}

double Plan::flops() const {
  double total = 0;
  for (const auto& op : ops_) total += op->flops();
  return total;
}

}  // namespace ddad
