#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "graph/op_kind.h"
#include "graph/plan.h"
#include "profile/profile.h"
#include "unet/initialize.h"
#include "unet/unet.h"

namespace ddad {
namespace {

using nlohmann::json;

/// What tells an op's work from another's: "conv 3x3 64+32>64 +skip 8x32x32", say.
std::string nameOf(const OpContext& op) {
  const OpAttributes& attr = op.record->attr;
  const auto number = [](int64_t n) { return std::to_string(n); };
  std::string name = opKindName(op.record->kind);
  const bool isConv = op.record->kind == OpKind::kConv || op.record->kind == OpKind::kDepthwiseConv;
  if (isConv) name += " " + number(attr.kernel) + "x" + number(attr.kernel);
  if (isConv && attr.stride > 1) name += "/" + number(attr.stride);
  name += " ";
  for (int i = 0; i < attr.sources; ++i) name += (i > 0 ? "+" : "") + number(op.in[static_cast<size_t>(i)].c);
  const bool changes = isConv || op.record->kind == OpKind::kLinear;
  if (changes) name += ">" + number(op.out.c);
  if (isConv && attr.residual) name += " +skip";
  if (attr.embedding == EmbeddingMode::kScaleShift) name += " +scale";
  if (attr.embedding == EmbeddingMode::kAdd) name += " +vector";
  if (attr.activation == Activation::kSilu || attr.siluInput) name += " silu";
  if (op.record->kind == OpKind::kAttention) name += " " + number(attr.heads) + (attr.heads > 1 ? " heads" : " head");
  name += " " + number(op.out.n);
  if (op.out.h * op.out.w > 1) name += "x" + number(op.out.h) + "x" + number(op.out.w);
  return name;
}

struct Work {
  double flops = 0, bytes = 0;
};

/// What an op computes and has to touch at least, whatever kernel does it.
Work workOf(const Graph& graph, const Op& op, bool backward) {
  const OpContext& context = op.context();
  double inputs = 0, wanted = 0, parameters = 0;
  bool inputGradient = false;
  for (size_t i = 0; i < context.in.size(); ++i) {
    inputs += static_cast<double>(context.in[i].size());
    if (!context.inputGradient[i]) continue;
    wanted += static_cast<double>(context.in[i].size());
    inputGradient = true;
  }
  for (const ParamId id : context.record->params) parameters += static_cast<double>(graph.param(id).size());
  const auto output = static_cast<double>(context.out.size());
  if (!backward) return {op.flops(), (inputs + parameters + output) * sizeof(float)};
  // Backward is the same product twice, for the data and for the weights, where both are wanted. Attention has four
  // products for its two.
  const bool attention = context.record->kind == OpKind::kAttention;
  const int products = attention ? 2 : (inputGradient ? 1 : 0) + (context.paramGradient ? 1 : 0);
  const double gradients = context.paramGradient ? parameters : 0;
  return {products * op.flops(), (inputs + wanted + parameters + gradients + output) * sizeof(float)};
}

/// Ops of one kind and shape.
struct Entry {
  std::string name, kernel;
  Work work;
  int64_t count = 0;
  double seconds = 0;  // of all of them in this pass
  std::vector<double> samples;
};

/// The entry of each op of a plan; ops without a backward have none when that is timed.
class Entries {
 public:
  Entries(const Graph& graph, const Plan& plan, bool backward) {
    std::map<std::string, size_t> known;
    for (const auto& op : plan.ops()) {
      if (backward && !op->context().training) {
        of_.push_back(kNone);
        continue;
      }
      const auto [at, fresh] = known.emplace(nameOf(op->context()), entries_.size());
      if (fresh) entries_.push_back({at->first, op->kernelName(), workOf(graph, *op, backward), 0, 0, {}});
      ++entries_[at->second].count;
      of_.push_back(at->second);
    }
  }

  template <class F>
  void time(size_t op, F&& run) {
    const Stopwatch watch;
    run();
    if (of_[op] != kNone) entries_[of_[op]].seconds += watch.seconds();
  }

  void endPass(bool counted) {
    for (Entry& entry : entries_) {
      if (counted) entry.samples.push_back(entry.seconds / static_cast<double>(entry.count));
      entry.seconds = 0;
    }
  }

  json toJson() const {
    json list = json::array();
    for (const Entry& e : entries_)
      list.push_back({{"name", e.name},
                      {"kernel", e.kernel},
                      {"count", e.count},
                      {"flops", e.work.flops},
                      {"bytes", e.work.bytes},
                      {"seconds", e.samples}});
    return list;
  }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);
  std::vector<Entry> entries_;
  std::vector<size_t> of_;
};

/// Values between -1 and 1 that are no simple pattern.
void fill(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = std::sin(0.7f * static_cast<float>(i % 8191));
}

}  // namespace

json profileOps(const Device& device, const json& config, const ProfileOptions& options, const Cancel& cancel) {
  const UNet net = buildUNet(UNetConfig::fromJson(config.at("unet")));
  const auto size = config.at("input").at("size").get<int64_t>();
  ParameterBlock parameters{AlignedBuffer(net.graph.parameterFloats()),
                            AlignedBuffer(options.training ? net.graph.parameterFloats() : 0)};
  initializeUNet(net, 1, parameters.values.data());
  PlanOptions compiled;
  compiled.batch = options.batch;
  compiled.height = compiled.width = size;
  compiled.training = options.training;
  Plan plan(device, net.graph, compiled, parameters);
  plan.prepare();

  Entries entries(net.graph, plan, options.training);
  const auto& ops = plan.ops();
  repeat(options.repetition, cancel, [&](bool warmUp) {
    fill(plan.value(net.x), plan.shape(net.x).size());
    for (int64_t i = 0; i < options.batch; ++i) plan.value(net.t)[i] = static_cast<float>(10 * i + 5);
    if (net.y >= 0) std::fill_n(plan.value(net.y), options.batch, 0.0f);
    for (size_t i = 0; i < ops.size(); ++i) {
      cancel.check();
      if (options.training)
        ops[i]->forward();
      else
        entries.time(i, [&] { ops[i]->forward(); });
    }
    if (options.training) {
      for (const TensorId id : net.graph.outputs()) fill(plan.gradient(id), plan.shape(id).size());
      for (size_t i = ops.size(); i-- > 0;) {
        if (!ops[i]->context().training) continue;
        cancel.check();
        entries.time(i, [&] { ops[i]->backward(); });
      }
    }
    entries.endPass(!warmUp);
  });
  return {{"ops", entries.toJson()}};
}

}  // namespace ddad
