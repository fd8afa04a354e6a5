#pragma once
// What the plain reference says of the rows of the table of ops: values, and slopes by finite differences.
#include <string>
#include <vector>

#include "graph/plan.h"
#include "op_cases.h"
#include "reference.h"

namespace ddad::testing {

/// ||got - want|| / max(||want||, floor).
double relativeError(const Values& got, const Values& want, double floor);

/// Where a gradient was probed and what finite differences gave there.
struct Probe {
  std::vector<size_t> places;
  Values slopes;
};

/// A case with its inputs and everything the reference says of it, computed once for all kernels and devices.
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

  explicit Expectation(const OpCase& opCase);

  /// A block with the case's parameters, on the host.
  ParameterBlock makeBlock() const;
  Values reference() const;
  double loss() const;
  /// Central differences of the reference at up to 12 places of `values`.
  Probe probe(Values& values) const;
};

const std::vector<Expectation>& expectations();

}  // namespace ddad::testing
