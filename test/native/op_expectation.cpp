#include "op_expectation.h"

#include <algorithm>
#include <cmath>

#include "device/open_device.h"
#include "random_values.h"

namespace ddad::testing {

double relativeError(const Values& got, const Values& want, double floor) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), floor);
}

Expectation::Expectation(const OpCase& opCase) : c(opCase), g(buildOpCase(opCase)) {
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

ParameterBlock Expectation::makeBlock() const {
  ParameterBlock block(AlignedBuffer(g.graph.parameterFloats()), AlignedBuffer(g.graph.parameterFloats()));
  for (size_t p = 0; p < params.size(); ++p)
    std::copy(params[p].begin(), params[p].end(), block.values.data() + g.graph.params()[p].offset);
  return block;
}

Values Expectation::reference() const { return referenceForward(g.graph.ops()[0], shapes, in, params, outShape); }

double Expectation::loss() const {
  const Values values = reference();
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += values[i] * direction[i];
  return sum;
}

Probe Expectation::probe(Values& values) const {
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

const std::vector<Expectation>& expectations() {
  static const std::vector<Expectation> all = [] {
    std::vector<Expectation> made;
    for (const OpCase& c : opCases()) made.emplace_back(c);
    return made;
  }();
  return all;
}

}  // namespace ddad::testing
