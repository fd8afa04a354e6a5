// Every op of the table: forward against the plain reference in double, every gradient against finite differences of
// that reference, on the instruction set of the run (ctest runs once for each) and with every convolution kernel.
#include <algorithm>
#include <cmath>

#include "device/open_device.h"
#include "doctest.h"
#include "op_expectation.h"
#include "ops/conv/conv_kernels.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

// float32 sums of up to a thousand products of unit size, error about 1e-7 each way; Winograd's transforms amplify
// rounding by about ten.
constexpr double kForwardTolerance = 2e-5;
constexpr double kGradientTolerance = 1e-4;

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
