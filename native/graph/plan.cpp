#include "graph/plan.h"

#include <algorithm>

#include "graph/device_ops.h"

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

/// Packed weights of each op start on a 64-byte boundary.
int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

Plan::Plan(const Device& device, const Graph& graph, const PlanOptions& options, ParameterBlock& parameters,
           PlanMemory* memory)
    : Plan(device, graph, options) {
  onDevice_ = &parameters.on(device, graph, options.training && options.paramGradients);
  compile();
  const MemoryLayout layout = layOut();
  takeArena(layout.floats(), memory);
  takePacked(memory);
  bind(layout);
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
  plan.arenaFloats_ = plan.layOut().floats();
  return {plan.activationBytes(), plan.packedFloats() * static_cast<int64_t>(sizeof(float)), plan.flops()};
}

bool Plan::isHalf(TensorId id) const { return half_[static_cast<size_t>(id)]; }

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

MemoryLayout Plan::layOut() const {
  std::vector<TensorMemory> tensors;
  for (size_t t = 0; t < shapes_.size(); ++t) tensors.push_back({shapes_[t].size(), half_[t], needsGradient_[t]});
  return {graph_, ops_, std::move(tensors), options_.training};
}

void Plan::takeArena(int64_t floats, PlanMemory* memory) {
  arenaFloats_ = floats;
  if (memory && memory->arena && memory->arena->size() >= floats) {
    arena_ = memory->arena;
    return;
  }
  arena_ = std::make_shared<DeviceBuffer>(device_, floats);
  if (memory) memory->arena = arena_;
}

int64_t Plan::packedFloats() const {
  int64_t floats = 0;
  for (const auto& op : ops_) floats += aligned(op->packedFloats());
  return floats;
}

void Plan::takePacked(PlanMemory* memory) {
  std::vector<PackedPart> parts;
  for (const auto& op : ops_) parts.push_back({op->packedLayout(), op->packedFloats()});
  if (memory && memory->packed && memory->packedParts == parts) {
    packed_ = memory->packed;
    shared_ = true;
    return;
  }
  packed_ = std::make_shared<PackedWeights>(device_, packedFloats());
  if (!memory) return;
  memory->packed = packed_;
  memory->packedParts = std::move(parts);
}

void Plan::bind(const MemoryLayout& layout) {
  float* const base = arena_->data();
  for (size_t t = 0; t < shapes_.size(); ++t) {
    values_.push_back(layout.value(static_cast<TensorId>(t), base));
    gradients_.push_back(layout.gradient(static_cast<TensorId>(t), base));
  }
  float* packed = packed_->data();
  for (size_t i = 0; i < ops_.size(); ++i) {
    OpBuffers buffers = buffersOf(i, layout);
    buffers.packed = packed;
    packed += aligned(ops_[i]->packedFloats());
    ops_[i]->bind(buffers);
  }
}

OpBuffers Plan::buffersOf(size_t i, const MemoryLayout& layout) const {
  const OpRecord& record = graph_.ops()[i];
  const OpContext& context = ops_[i]->context();
  const MemoryLayout::OpMemory& memory = layout.op(i);
  float* const base = arena_->data();
  OpBuffers b;
  for (size_t k = 0; k < record.inputs.size(); ++k) {
    b.in.push_back(value(record.inputs[k]));
    b.inGrad.push_back(context.inputGradient[k] ? gradient(record.inputs[k]) : nullptr);
  }
  b.out = value(record.output);
  b.outGrad = gradient(record.output);
  b.accumulate = memory.accumulate;
  for (ParamId id : record.params) {
    const int64_t offset = graph_.param(id).offset;
    void* const half = options_.float32 ? nullptr : onDevice_->half();
    b.param.push_back(onDevice_->values() + offset);
    b.paramHalf.push_back(half ? static_cast<const char*>(half) + 2 * offset : nullptr);
    b.paramGrad.push_back(context.paramGradient ? onDevice_->gradients() + offset : nullptr);
  }
  b.saved = layout.at(memory.saved, base);
  // forward and backward of one op never run at once: two scratch areas, one pointer each
  b.workspace = layout.at(memory.forwardScratch, base);
  b.backwardWorkspace = layout.at(memory.backwardScratch, base);
  return b;
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
