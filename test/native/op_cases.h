#pragma once
// One table of ops: the tests check each row's forward and gradients against the reference, the bench times it.
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ddad::testing {

struct OpCase {
  std::string name;
  OpKind kind;
  OpAttributes attr;
  int64_t batch, height, width;
  std::vector<int64_t> in;  // channels of the inputs, in the op's order
  int64_t out;
};

/// A graph of that one op.
struct OpCaseGraph {
  Graph graph;
  std::vector<TensorId> inputs;
  TensorId output;
};

std::vector<OpCase> opCases();
OpCaseGraph buildOpCase(const OpCase& c);

}  // namespace ddad::testing
