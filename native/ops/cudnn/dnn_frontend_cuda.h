#pragma once
// cuDNN's graph API. Files that build graphs see this, nothing else does.
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <functional>

#include "ops/cudnn/dnn_graph_cuda.h"

namespace ddad {

namespace fe = cudnn_frontend;

using FrontendGraph = std::shared_ptr<fe::graph::Graph>;

/// A graph to compile.
struct DnnRequest {
  std::string key;                                   // says all about it: pass, shape, types
  DnnMath math = DnnMath::kTensorCores;              // kFloat32: no engine that rounds its operands
  std::function<FrontendGraph()> make;               // not yet validated
  std::vector<std::pair<int64_t, int64_t>> tensors;  // id and bytes of each tensor that is not virtual
  bool layoutOnly = false;                           // asked for its memory alone: no engine is looked for
};

inline fe::DataType_t frontendType(DnnType type) {
  return type == DnnType::kBf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::FLOAT;
}

/// The graph compiled for the device, or what was compiled before. The engine is the one named by the table of choices,
/// else the fastest of the first few that cuDNN proposes, measured, else cuDNN's first. Null where no engine computes
/// it; `*why`, where given, then says what cuDNN said.
std::shared_ptr<const DnnGraph> compileGraph(const CudaDevice& device, const DnnRequest& request,
                                             std::string* why = nullptr);

/// Validates the graph, asks for its engines and bars those that `math` and repeatable results rule out. Returns what
/// went wrong; empty where engines are left to be built.
std::string proposeEngines(fe::graph::Graph& graph, cudnnHandle_t handle, DnnMath math, bool deterministic);

}  // namespace ddad
