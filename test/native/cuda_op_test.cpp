// Every op on the GPU against the same op on the CPU, whose own tests hold it to the reference: values and all
// gradients, in each precision, with activations in float32 and in bf16.
#include <cmath>

#include "base/bf16.h"
#include "cuda_helpers.h"
#include "device/open_device.h"
#include "doctest.h"
#include "graph/plan.h"
#include "op_cases.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

/// What an op yields: its output, then the gradient of each input that has one and of each parameter.
struct Results {
  std::vector<std::string> names;
  std::vector<std::vector<float>> tensors;
  void add(std::string name, std::vector<float> values) {
    names.push_back(std::move(name));
    tensors.push_back(std::move(values));
  }
};

/// A tensor of the plan's ends, which may be bf16.
struct End {
  const Device& device;
  bool half;

  std::vector<float> read(const float* from, int64_t n) const {
    if (!half) return hostCopy(device, from, n);
    std::vector<Bf16> values(static_cast<size_t>(n));
    device.download(values.data(), from, n * 2);
    device.synchronize();
    std::vector<float> floats;
    for (const Bf16 v : values) floats.push_back(toFloat(v));
    return floats;
  }
  void write(float* to, const std::vector<float>& values) const {
    std::vector<Bf16> rounded;
    for (const float v : values) rounded.push_back(fromFloat<Bf16>(v));
    const auto n = static_cast<int64_t>(values.size());
    if (half)
      device.upload(to, rounded.data(), n * 2);
    else
      device.upload(to, values.data(), n * 4);
    device.synchronize();
  }
};

std::vector<float> floats(RandomValues& random, int64_t n) {
  const std::vector<double> values = random.normal(n);
  return {values.begin(), values.end()};
}

/// The case on a device, twice: the second run finds what the first left, and on a GPU is the recorded one the third
/// time. All must give the same bits.
Results run(const OpCase& c, Device& device, bool training, bool halfEnds) {
  const OpCaseGraph g = buildOpCase(c);
  PlanOptions options;
  options.batch = c.batch;
  options.height = c.kind == OpKind::kUpsample ? 2 * c.height : c.height;
  options.width = c.kind == OpKind::kUpsample ? 2 * c.width : c.width;
  options.training = training && c.kind != OpKind::kTimestepEmbedding;
  options.inputGradients = options.training;
  options.halfEnds = halfEnds;
  const bool half = halfEnds && device.precision() == Precision::kBf16;
  RandomValues random(11);
  ParameterBlock block(AlignedBuffer(g.graph.parameterFloats()),
                       AlignedBuffer(device.sharesHostMemory() ? g.graph.parameterFloats() : 0));
  // Weights of the size that a trained network has: sums of products stay near 1.
  for (const ParamSpec& p : g.graph.params()) {
    const double fan = p.shape.size() > 1 ? static_cast<double>(p.size() / p.shape[0]) : 1.0;
    const std::vector<float> values = floats(random, p.size());
    for (size_t i = 0; i < values.size(); ++i)
      block.values.data()[p.offset + static_cast<int64_t>(i)] = values[i] / static_cast<float>(std::sqrt(fan));
  }
  Plan plan(device, g.graph, options, block);
  const auto end = [&](TensorId id) { return End{device, half && g.graph.tensor(id).level != TensorSpec::kVector}; };
  std::vector<std::vector<float>> in;
  for (size_t i = 0; i < g.inputs.size(); ++i) {
    in.push_back(floats(random, plan.shape(g.inputs[i]).size()));
    for (size_t n = 0; n < in[i].size(); ++n) {
      if (c.kind == OpKind::kLabelEmbedding && i == 1) in[i][n] = static_cast<float>((n * 3) % 4);
      if (c.kind == OpKind::kTimestepEmbedding) in[i][n] = static_cast<float>(n * 431);
      if (c.kind == OpKind::kGroupNorm) in[i][n] += 3.0f;  // a mean that does not vanish
    }
  }
  const std::vector<float> direction = floats(random, plan.shape(g.output).size());
  Results results;
  plan.prepare();
  for (int time = 0; time < 3; ++time) {
    Results again;
    for (size_t i = 0; i < in.size(); ++i) end(g.inputs[i]).write(plan.value(g.inputs[i]), in[i]);
    plan.forward(Cancel());
    again.add("output", end(g.output).read(plan.value(g.output), plan.shape(g.output).size()));
    if (options.training) {
      end(g.output).write(plan.gradient(g.output), direction);
      plan.backward(Cancel());
      for (TensorId id : g.inputs)
        if (plan.gradient(id))
          again.add("gradient of " + g.graph.tensor(id).name, end(id).read(plan.gradient(id), plan.shape(id).size()));
      block.downloadGradients();
      for (const ParamSpec& p : g.graph.params()) {
        const float* values = block.gradients.data() + p.offset;
        again.add("gradient of " + p.name, {values, values + p.size()});
      }
    }
    if (time > 0) CHECK_MESSAGE(again.tensors == results.tensors, c.name << ": run " << time << " differs");
    results = std::move(again);
  }
  return results;
}

/// Larger than those of the table: what tensor cores, fused attention and full blocks need.
std::vector<OpCase> largerCases() {
  std::vector<OpCase> cases;
  OpAttributes conv3, conv1, norm, attention;
  conv3.kernel = 3;
  conv3.pad = 1;
  OpAttributes residual = conv3, down = conv3, skip = conv1;
  residual.residual = true;
  down.stride = 2;
  skip.sources = 2;
  norm.activation = Activation::kSilu;
  norm.embedding = EmbeddingMode::kScaleShift;
  OpAttributes twoSources = norm;
  twoSources.sources = 2;
  twoSources.embedding = EmbeddingMode::kNone;
  attention.heads = 4;
  OpAttributes split = attention;
  split.splitBeforeHeads = true;
  using K = OpKind;
  return {{"conv3x3 256", K::kConv, conv3, 2, 32, 32, {256}, 256},
          {"conv3x3 residual 128", K::kConv, residual, 2, 33, 31, {64, 128}, 128},
          {"conv3x3 down 128", K::kConv, down, 2, 32, 32, {128}, 128},
          {"conv3x3 first 64", K::kConv, conv3, 2, 64, 64, {1}, 64},
          {"conv3x3 last 64", K::kConv, conv3, 2, 64, 64, {64}, 2},
          {"conv1x1 skip", K::kConv, skip, 2, 16, 16, {256, 128}, 256},
          {"norm 256", K::kGroupNorm, norm, 2, 64, 64, {256, 512}, 256},
          {"norm two sources", K::kGroupNorm, twoSources, 2, 33, 31, {512, 256}, 768},
          {"norm one channel a group", K::kGroupNorm, norm, 3, 65, 63, {32, 64}, 32},
          {"attention 32x32", K::kAttention, attention, 2, 32, 32, {768}, 256},
          {"attention 8x8 split", K::kAttention, split, 3, 8, 8, {768}, 256},
          {"attention odd", K::kAttention, attention, 1, 9, 11, {768}, 256}};
}

struct Tolerance {
  double value, gradient;
};

void compareCases(const std::vector<OpCase>& cases, Precision precision, bool halfEnds, Tolerance tolerance) {
  const auto gpu = testGpu(precision);
  if (!gpu) return;
  const auto cpu = openDevice("cpu", 0);
  for (const OpCase& c : cases) {
    const bool ofBackbone = c.kind == OpKind::kDepthwiseConv || c.kind == OpKind::kSqueezeExcite ||
                            (c.kind == OpKind::kConv && c.attr.activation != Activation::kNone);
    if (ofBackbone && halfEnds) continue;  // the backbone stays float32
    for (const bool training : {false, true}) {
      CAPTURE(c.name);
      CAPTURE(training);
      try {
        const Results want = run(c, *cpu, training, false), got = run(c, *gpu, training, halfEnds);
        REQUIRE(got.names == want.names);
        for (size_t i = 0; i < want.names.size(); ++i) {
          const double error = relativeDistance(got.tensors[i], want.tensors[i]);
          CHECK_MESSAGE(error <= (i == 0 ? tolerance.value : tolerance.gradient),
                        c.name << (training ? " (training)" : "") << ": " << want.names[i] << ": " << error);
        }
      } catch (const Error& error) {
        FAIL_CHECK(c.name << ": " << error.code() << ": " << error.what());
      }
    }
  }
}

}  // namespace

// Both sides sum up to a few thousand products in float32, each in its own order.
TEST_CASE("gpu: ops in float32") {
  compareCases(opCases(), Precision::kFloat32, false, {2e-5, 1e-4});
  compareCases(largerCases(), Precision::kFloat32, false, {2e-5, 1e-4});
}

// TensorFloat-32 keeps 11 bits of each factor: 5e-4 at most, 3e-4 on average.
TEST_CASE("gpu: ops in tf32") {
  compareCases(opCases(), Precision::kTf32, false, {2e-3, 3e-3});
  compareCases(largerCases(), Precision::kTf32, false, {2e-3, 3e-3});
}

// bf16 keeps 8 bits: 2e-3 on average of each factor and of each result; gradients pass through two products.
TEST_CASE("gpu: ops in bf16, between activations in float32") {
  compareCases(opCases(), Precision::kBf16, false, {1e-2, 2e-2});
  compareCases(largerCases(), Precision::kBf16, false, {1e-2, 2e-2});
}
TEST_CASE("gpu: ops in bf16, between activations in bf16") {
  compareCases(opCases(), Precision::kBf16, true, {1e-2, 2e-2});
  compareCases(largerCases(), Precision::kBf16, true, {1e-2, 2e-2});
}
