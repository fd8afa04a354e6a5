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

struct Fixture {
  OpCase c;
  OpCaseGraph g;
  ParameterBlock block;
  std::shared_ptr<Device> device = openDevice("cpu", 2);
  std::unique_ptr<Plan> plan;
  std::vector<Shape> shapes;
  std::vector<Values> in, params;
  Values direction;  // gradient of the output: the loss is its product with the output

  explicit Fixture(const OpCase& opCase) : c(opCase), g(buildOpCase(opCase)) {
    block = {AlignedBuffer(g.graph.parameterFloats()), AlignedBuffer(g.graph.parameterFloats())};
    PlanOptions options;
    options.batch = c.batch;
    options.height = c.kind == OpKind::kUpsample ? 2 * c.height : c.height;
    options.width = c.kind == OpKind::kUpsample ? 2 * c.width : c.width;
    // an activation fused into the convolution exists in inference only
    options.training = !(c.kind == OpKind::kConv && c.attr.activation != Activation::kNone);
    options.inputGradients = options.training;
    plan = std::make_unique<Plan>(*device, g.graph, options, block);
    RandomValues random(7);
    for (size_t i = 0; i < g.inputs.size(); ++i) {
      const Shape shape = plan->shape(g.inputs[i]);
      shapes.push_back(shape);
      in.push_back(random.normal(shape.size()));
      if (c.kind == OpKind::kLabelEmbedding && i == 1)
        for (size_t n = 0; n < in[i].size(); ++n) in[i][n] = static_cast<double>((n * 3) % 4);
      if (c.kind == OpKind::kTimestepEmbedding)
        for (size_t n = 0; n < in[i].size(); ++n) in[i][n] = static_cast<double>(n * 431);
      std::copy(in[i].begin(), in[i].end(), plan->value(g.inputs[i]));
    }
    for (const ParamSpec& p : g.graph.params()) {
      params.push_back(random.normal(p.size()));
      std::copy(params.back().begin(), params.back().end(), block.values.data() + p.offset);
    }
    direction = random.normal(plan->shape(g.output).size());
    plan->prepare();
  }

  Values reference() const { return referenceForward(g.graph.ops()[0], shapes, in, params, plan->shape(g.output)); }
  double loss() const {
    const Values out = reference();
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * direction[i];
    return sum;
  }

  /// Central differences of the reference at up to 24 places of `values`, beside the gradient that was computed.
  void checkGradient(Values& values, const float* gradient, const char* what) const {
    Values got, want;
    const size_t stride = std::max<size_t>(1, values.size() / 24);
    for (size_t i = 0; i < values.size(); i += stride) {
      const double keep = values[i], step = 1e-5;
      values[i] = keep + step;
      const double up = loss();
      values[i] = keep - step;
      const double down = loss();
      values[i] = keep;
      want.push_back((up - down) / (2 * step));
      got.push_back(static_cast<double>(gradient[i]));
    }
    const double error = relativeError(got, want, 1e-3);
    CHECK_MESSAGE(error <= kGradientTolerance, what << " of " << c.name << ": " << error);
  }
};

void checkCase(const OpCase& c) {
  Fixture f(c);
  const Cancel never;
  f.plan->forward(never);
  const Values want = f.reference();
  const float* out = f.plan->value(f.g.output);
  const double error = relativeError(Values(out, out + want.size()), want, 1e-6);
  CHECK_MESSAGE(error <= kForwardTolerance, "forward of " << c.name << ": " << error);
  if (!f.plan->options().training || c.kind == OpKind::kTimestepEmbedding) return;

  std::copy(f.direction.begin(), f.direction.end(), f.plan->gradient(f.g.output));
  f.plan->backward(never);
  for (size_t i = 0; i < f.in.size(); ++i)
    if (f.plan->gradient(f.g.inputs[i])) f.checkGradient(f.in[i], f.plan->gradient(f.g.inputs[i]), "input gradient");
  for (size_t p = 0; p < f.params.size(); ++p)
    f.checkGradient(f.params[p], f.block.gradients.data() + f.g.graph.params()[p].offset, "parameter gradient");
}

}  // namespace

TEST_CASE("every op agrees with its reference, forward and backward") {
  for (const OpCase& c : opCases()) {
    CAPTURE(c.name);
    checkCase(c);
  }
}

TEST_CASE("every convolution kernel agrees with the reference") {
  const ConvKernel before = convKernel();
  for (ConvKernel kernel : {ConvKernel::kDirect, ConvKernel::kWinograd, ConvKernel::kOnednn}) {
    setConvKernel(kernel);
    for (const OpCase& c : opCases())
      if (c.kind == OpKind::kConv) {
        CAPTURE(static_cast<int>(kernel));
        checkCase(c);
      }
  }
  setConvKernel(before);
}

TEST_CASE("results do not depend on the number of threads") {
  for (const OpCase& c : opCases()) {
    std::vector<std::vector<float>> results;
    for (int threads : {1, 2, 3}) {
      Fixture f(c);
      const auto device = openDevice("cpu", threads);
      Plan plan(*device, f.g.graph, f.plan->options(), f.block);
      for (size_t i = 0; i < f.in.size(); ++i) std::copy(f.in[i].begin(), f.in[i].end(), plan.value(f.g.inputs[i]));
      plan.prepare();
      plan.forward(Cancel());
      const float* out = plan.value(f.g.output);
      std::vector<float> all(out, out + plan.shape(f.g.output).size());
      if (plan.options().training && c.kind != OpKind::kTimestepEmbedding) {
        std::copy(f.direction.begin(), f.direction.end(), plan.gradient(f.g.output));
        plan.backward(Cancel());
        all.insert(all.end(), f.block.gradients.data(), f.block.gradients.data() + f.block.gradients.size());
      }
      results.push_back(std::move(all));
    }
    CAPTURE(c.name);
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
  }
}
