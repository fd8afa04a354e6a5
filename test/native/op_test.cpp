// Every op of the table: forward against the plain reference in double, every gradient against finite differences of
// that reference, on the instruction set of the run (ctest runs once for each) and with every convolution kernel.
#include <algorithm>
#include <cmath>

#include "doctest.h"
#include "op_cases.h"
#include "ops/conv.h"
#include "ops/plan.h"
#include "ops/reference.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

// float32 sums of up to a thousand products of unit size, error about 1e-7 each way; Winograd's transforms amplify
// rounding by about ten.
constexpr double kForwardTolerance = 2e-5;
constexpr double kGradientTolerance = 1e-4;

double relativeError(const Values& got, const Values& want, double floor) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), floor);
}

/// Where a gradient was probed and what finite differences gave there.
struct Probe {
  std::vector<size_t> places;
  Values slopes;
};

/// A case with its inputs and everything the reference says of it, computed once for all kernels.
struct Expectation {
  OpCase c;
  OpCaseGraph g;
  PlanOptions options;
  std::vector<Shape> shapes;
  Shape outShape;
  std::vector<Values> in, params;
  Values direction;  // gradient of the output: the loss is its product with the output
  Values out;
  std::vector<Probe> inProbes, paramProbes;

  explicit Expectation(const OpCase& opCase) : c(opCase), g(buildOpCase(opCase)) {
    options.batch = c.batch;
    options.height = c.kind == OpKind::kUpsample ? 2 * c.height : c.height;
    options.width = c.kind == OpKind::kUpsample ? 2 * c.width : c.width;
    options.training = c.kind != OpKind::kTimestepEmbedding;
    options.inputGradients = options.training;
    const auto device = openDevice("cpu", 1);
    ParameterBlock block = makeBlock();
    const Plan plan(*device, g.graph, options, block);
    RandomValues random(7);
    for (size_t i = 0; i < g.inputs.size(); ++i) {
      shapes.push_back(plan.shape(g.inputs[i]));
      in.push_back(random.normal(shapes.back().size()));
      if (c.kind == OpKind::kLabelEmbedding && i == 1)
        for (size_t n = 0; n < in[i].size(); ++n) in[i][n] = static_cast<double>((n * 3) % 4);
      if (c.kind == OpKind::kTimestepEmbedding)
        for (size_t n = 0; n < in[i].size(); ++n) in[i][n] = static_cast<double>(n * 431);
    }
    for (const ParamSpec& p : g.graph.params()) params.push_back(random.normal(p.size()));
    outShape = plan.shape(g.output);
    direction = random.normal(outShape.size());
    out = reference();
    if (!options.training) return;
    for (size_t i = 0; i < in.size(); ++i) inProbes.push_back(plan.gradient(g.inputs[i]) ? probe(in[i]) : Probe());
    for (Values& p : params) paramProbes.push_back(probe(p));
  }

  ParameterBlock makeBlock() const {
    return {AlignedBuffer(g.graph.parameterFloats()), AlignedBuffer(g.graph.parameterFloats())};
  }
  Values reference() const { return referenceForward(g.graph.ops()[0], shapes, in, params, outShape); }
  double loss() const {
    const Values values = reference();
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] * direction[i];
    return sum;
  }

  /// Central differences of the reference at up to 12 places of `values`.
  Probe probe(Values& values) const {
    Probe p;
    const size_t stride = std::max<size_t>(1, values.size() / 12);
    for (size_t i = 0; i < values.size(); i += stride) {
      const double keep = values[i], step = 1e-5;
      values[i] = keep + step;
      const double up = loss();
      values[i] = keep - step;
      const double down = loss();
      values[i] = keep;
      p.places.push_back(i);
      p.slopes.push_back((up - down) / (2 * step));
    }
    return p;
  }
};

const std::vector<Expectation>& expectations() {
  static const std::vector<Expectation> all = [] {
    std::vector<Expectation> made;
    for (const OpCase& c : opCases()) made.emplace_back(c);
    return made;
  }();
  return all;
}

/// One run of a case on the engine.
struct Run {
  const Expectation& e;
  std::shared_ptr<Device> device;
  ParameterBlock block;
  Plan plan;

  Run(const Expectation& expectation, int threads) : Run(expectation, threads, expectation.options) {}
  Run(const Expectation& expectation, int threads, const PlanOptions& options)
      : e(expectation),
        device(openDevice("cpu", threads)),
        block(e.makeBlock()),
        plan(*device, e.g.graph, options, block) {
    for (size_t i = 0; i < e.in.size(); ++i) std::copy(e.in[i].begin(), e.in[i].end(), plan.value(e.g.inputs[i]));
    for (size_t p = 0; p < e.params.size(); ++p)
      std::copy(e.params[p].begin(), e.params[p].end(), block.values.data() + e.g.graph.params()[p].offset);
    plan.prepare();
    plan.forward(Cancel());
    const float* values = plan.value(e.g.output);
    out.assign(values, values + e.outShape.size());
    if (!options.training) return;
    std::copy(e.direction.begin(), e.direction.end(), plan.gradient(e.g.output));
    plan.backward(Cancel());
  }

  std::vector<float> out;
};

void checkGradient(const Probe& probe, const float* gradient, const std::string& what) {
  Values got;
  for (size_t place : probe.places) got.push_back(static_cast<double>(gradient[place]));
  const double error = relativeError(got, probe.slopes, 1e-3);
  CHECK_MESSAGE(error <= kGradientTolerance, what << ": " << error);
}

void checkForward(const Run& run) {
  const double error = relativeError(Values(run.out.begin(), run.out.end()), run.e.out, 1e-6);
  CHECK_MESSAGE(error <= kForwardTolerance, "forward of " << run.e.c.name << ": " << error);
}

void checkCase(const Expectation& e) {
  // without a backward to come some ops fuse more
  PlanOptions inference = e.options;
  inference.training = inference.inputGradients = false;
  checkForward(Run(e, 2, inference));
  const Run run(e, 2);
  checkForward(run);
  if (!e.options.training) return;
  for (size_t i = 0; i < e.in.size(); ++i)
    if (const float* gradient = run.plan.gradient(e.g.inputs[i]))
      checkGradient(e.inProbes[i], gradient, "input gradient of " + e.c.name);
  for (size_t p = 0; p < e.params.size(); ++p)
    checkGradient(e.paramProbes[p], run.block.gradients.data() + e.g.graph.params()[p].offset,
                  "parameter gradient of " + e.c.name);
}

}  // namespace

TEST_CASE("every op agrees with its reference, forward and backward") {
  for (const Expectation& e : expectations()) checkCase(e);
}

TEST_CASE("every convolution kernel agrees with the reference") {
  const ConvKernel before = convKernel();
  for (ConvKernel kernel : {ConvKernel::kDirect, ConvKernel::kWinograd, ConvKernel::kOnednn}) {
    setConvKernel(kernel);
    CAPTURE(static_cast<int>(kernel));
    for (const Expectation& e : expectations())
      if (e.c.kind == OpKind::kConv) checkCase(e);
  }
  setConvKernel(before);
}

TEST_CASE("results do not depend on the number of threads") {
  for (const Expectation& e : expectations()) {
    std::vector<std::vector<float>> results;
    for (int threads : {1, 2, 3}) {
      const Run run(e, threads);
      results.push_back(run.out);
      const float* gradients = run.block.gradients.data();
      results.back().insert(results.back().end(), gradients, gradients + run.block.gradients.size());
    }
    CAPTURE(e.c.name);
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
  }
}
