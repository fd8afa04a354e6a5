#include "ops/attention/attention_graph_cuda.h"

#include "ops/cudnn/dnn_frontend_cuda.h"

namespace ddad {
namespace {

using fe::graph::Tensor_attributes;

/// A part of qkv, or of its gradient, read in place.
Tensor_attributes part(const AttentionSpec& s, int64_t id, const char* name) {
  const int64_t row = 3 * s.channels();
  return Tensor_attributes()
      .set_name(name)
      .set_uid(id)
      .set_dim({s.n, s.heads, s.tokens, s.width})
      .set_stride({s.tokens * row, s.headStride(), row, 1})
      .set_data_type(fe::DataType_t::BFLOAT16);
}

Tensor_attributes out(const AttentionSpec& s, int64_t id, const char* name) {
  return Tensor_attributes()
      .set_name(name)
      .set_uid(id)
      .set_dim({s.n, s.heads, s.tokens, s.width})
      .set_stride({s.tokens * s.channels(), s.width, s.channels(), 1})
      .set_data_type(fe::DataType_t::BFLOAT16);
}

Tensor_attributes stats(const AttentionSpec& s) {
  return Tensor_attributes()
      .set_name("stats")
      .set_uid(kAttentionStats)
      .set_dim({s.n, s.heads, s.tokens, 1})
      .set_stride({s.heads * s.tokens, s.tokens, 1, 1})
      .set_data_type(fe::DataType_t::FLOAT);
}

/// Makes `tensor`, which the graph computes, one that lies as `like` does.
void place(const std::shared_ptr<Tensor_attributes>& tensor, const Tensor_attributes& like) {
  tensor->set_output(true)
      .set_name(like.get_name())
      .set_uid(like.get_uid())
      .set_dim(like.get_dim())
      .set_stride(like.get_stride())
      .set_data_type(like.get_data_type());
}

FrontendGraph emptyGraph(const char* name) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_name(name);
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

std::string keyOf(const char* pass, const AttentionSpec& s) {
  const auto text = [](int64_t x) { return std::to_string(x); };
  return std::string(pass) + " " + text(s.n) + "x" + text(s.tokens) + ", " + text(s.heads) + " heads of " +
         text(s.width) + (s.splitBeforeHeads ? ", parts first" : ", heads first") + ", bf16";
}

/// Bytes from a part of qkv to behind its last value.
int64_t partBytes(const AttentionSpec& s) { return s.n * s.tokens * 3 * s.channels() * 2; }
int64_t outBytes(const AttentionSpec& s) { return s.n * s.tokens * s.channels() * 2; }
int64_t statsBytes(const AttentionSpec& s) { return s.n * s.heads * s.tokens * 4; }

FrontendGraph attentionForwardGraph(const AttentionSpec& s, bool withStats) {
  const FrontendGraph graph = emptyGraph("attention");
  const auto q = graph->tensor(part(s, kAttentionQ, "q"));
  const auto k = graph->tensor(part(s, kAttentionK, "k"));
  const auto v = graph->tensor(part(s, kAttentionV, "v"));
  auto attributes = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(withStats);
  attributes.set_attn_scale(s.scale);
  const auto [o, softmax] = graph->sdpa(q, k, v, attributes);
  place(o, out(s, kAttentionOut, "o"));
  if (withStats) place(softmax, stats(s));
  return graph;
}

FrontendGraph attentionBackwardGraph(const AttentionSpec& s) {
  const FrontendGraph graph = emptyGraph("attention gradient");
  const auto q = graph->tensor(part(s, kAttentionQ, "q"));
  const auto k = graph->tensor(part(s, kAttentionK, "k"));
  const auto v = graph->tensor(part(s, kAttentionV, "v"));
  const auto o = graph->tensor(out(s, kAttentionOut, "o"));
  const auto gradient = graph->tensor(out(s, kAttentionOutGradient, "do"));
  const auto softmax = graph->tensor(stats(s));
  auto attributes =
      fe::graph::SDPA_backward_attributes().set_name("attention gradient").set_deterministic_algorithm(true);
  attributes.set_attn_scale(s.scale);
  const auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, o, gradient, softmax, attributes);
  place(dq, part(s, kAttentionQGradient, "dq"));
  place(dk, part(s, kAttentionKGradient, "dk"));
  place(dv, part(s, kAttentionVGradient, "dv"));
  return graph;
}

}  // namespace

std::shared_ptr<const DnnGraph> attentionForward(const CudaDevice& device, const AttentionSpec& spec, bool withStats,
                                                 std::string* why) {
  DnnRequest request;
  request.key = keyOf(withStats ? "attention with stats" : "attention", spec);
  request.make = [=] { return attentionForwardGraph(spec, withStats); };
  request.tensors = {{kAttentionQ, partBytes(spec)},
                     {kAttentionK, partBytes(spec)},
                     {kAttentionV, partBytes(spec)},
                     {kAttentionOut, outBytes(spec)}};
  if (withStats) request.tensors.emplace_back(kAttentionStats, statsBytes(spec));
  request.layoutOnly = spec.layoutOnly;
  return compileGraph(device, request, why);
}

std::shared_ptr<const DnnGraph> attentionBackward(const CudaDevice& device, const AttentionSpec& spec,
                                                  std::string* why) {
  DnnRequest request;
  request.key = keyOf("attention gradient", spec);
  request.make = [=] { return attentionBackwardGraph(spec); };
  for (const int64_t id :
       {kAttentionQ, kAttentionK, kAttentionV, kAttentionQGradient, kAttentionKGradient, kAttentionVGradient})
    request.tensors.emplace_back(id, partBytes(spec));
  for (const int64_t id : {kAttentionOut, kAttentionOutGradient}) request.tensors.emplace_back(id, outBytes(spec));
  request.tensors.emplace_back(kAttentionStats, statsBytes(spec));
  request.layoutOnly = spec.layoutOnly;
  return compileGraph(device, request, why);
}

}  // namespace ddad
