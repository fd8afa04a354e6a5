#include "unet/initialize.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/philox.h"

namespace ddad {
namespace {

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// Stable across graphs: the address of a parameter's numbers is its name.
uint32_t nameHash(std::string_view name) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

int64_t fanIn(const ParamSpec& weight) {
  int64_t n = 1;
  for (size_t i = 1; i < weight.shape.size(); ++i) n *= weight.shape[i];
  return n;
}

void uniform(uint64_t seed, const ParamSpec& p, double bound, float* to) {
  const uint32_t name = nameHash(p.name);
  const int64_t size = p.size();
  for (int64_t i = 0; i < size; i += 4) {
    uint32_t words[4] = {static_cast<uint32_t>(i / 4), 0, name, kStreamInitialWeights};
    philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), words);
    for (int64_t lane = 0; lane < 4 && i + lane < size; ++lane) {
      const double u = (static_cast<double>(words[lane]) + 0.5) / 4294967296.0;
      to[i + lane] = static_cast<float>(bound * (2.0 * u - 1.0));
    }
  }
}

}  // namespace

void initializeOp(const Graph& graph, const OpRecord& op, uint64_t seed, const ParameterPlace& place) {
  if (op.params.empty()) return;
  const ParamSpec& weight = graph.param(op.params[0]);
  float* w = place(weight);
  const bool zero = contains(op.name, "out_layers.3") || contains(op.name, "proj_out") || op.name == "out.2";
  switch (op.kind) {
    case OpKind::kGroupNorm:
      std::fill_n(w, weight.size(), 1.0f);
      break;
    case OpKind::kLabelEmbedding:
      for (int64_t i = 0; i < weight.size(); i += 4) {
        float normal[4];
        philoxNormal4(seed, kStreamInitialWeights, nameHash(weight.name), 0, static_cast<uint32_t>(i / 4), normal);
        std::copy_n(normal, std::min<int64_t>(4, weight.size() - i), w + i);
      }
      break;
    default:
      if (!zero) uniform(seed, weight, 1.0 / std::sqrt(static_cast<double>(fanIn(weight))), w);
  }
  if (op.params.size() < 2 || op.kind == OpKind::kGroupNorm || zero) return;  // zero: as the memory already is
  uniform(seed, graph.param(op.params[1]), 1.0 / std::sqrt(static_cast<double>(fanIn(weight))),
          place(graph.param(op.params[1])));
}

void initializeUNet(const UNet& net, uint64_t seed, float* block) {
  for (const OpRecord& op : net.graph.ops())
    initializeOp(net.graph, op, seed, [&](const ParamSpec& p) { return block + p.offset; });
}

}  // namespace ddad
