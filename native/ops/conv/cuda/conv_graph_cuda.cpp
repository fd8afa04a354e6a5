#include "ops/conv/cuda/conv_graph_cuda.h"

#include <algorithm>

#include "ops/cudnn/dnn_frontend_cuda.h"

namespace ddad {
namespace {

using fe::graph::Tensor_attributes;
using Extents = std::vector<int64_t>;

/// cuDNN names extents as [n, c, h, w] however they lie.
Tensor_attributes tensor(int64_t id, const char* name, int64_t n, int64_t h, int64_t w, int64_t c, DnnType type) {
  return Tensor_attributes()
      .set_name(name)
      .set_uid(id)
      .set_dim({n, c, h, w})
      .set_stride({h * w * c, 1, w * c, c})
      .set_data_type(frontendType(type));
}
Tensor_attributes source(const ConvSpec& s) { return tensor(kConvSource, "x", s.n, s.h, s.w, s.c, s.type); }
Tensor_attributes weight(const ConvSpec& s) {
  return tensor(kConvWeight, "w", s.outC, s.kernel, s.kernel, s.c, s.type);
}
Tensor_attributes outGradient(const ConvSpec& s) {
  return tensor(kConvOutGradient, "dy", s.n, s.outH, s.outW, s.outC, s.type);
}

/// Zeros after the image: as many as before it where that gives the same output (more engines can do that), else what
/// the last output needs.
int64_t padAfter(int64_t in, int64_t out, const ConvSpec& s) {
  if (in + 2 * s.pad >= s.kernel && (in + 2 * s.pad - s.kernel) / s.stride + 1 == out) return s.pad;
  return std::max<int64_t>(0, (out - 1) * s.stride + s.kernel - in - s.pad);
}

template <class Attributes>
Attributes attributes(const ConvSpec& s, const char* name) {
  Attributes a;
  a.set_name(name)
      .set_pre_padding({s.pad, s.pad})
      .set_post_padding({padAfter(s.h, s.outH, s), padAfter(s.w, s.outW, s)})
      .set_stride({s.stride, s.stride})
      .set_dilation({1, 1})
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return a;
}

FrontendGraph emptyGraph(const char* name) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_name(name);
  graph->set_io_data_type(fe::DataType_t::FLOAT)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

const char* typeName(DnnType type) { return type == DnnType::kBf16 ? "bf16" : "float32"; }

std::string keyOf(const char* pass, const ConvSpec& s, const std::string& rest) {
  const auto text = [](int64_t x) { return std::to_string(x); };
  return std::string(pass) + " " + text(s.n) + "x" + text(s.h) + "x" + text(s.w) + "x" + text(s.c) + " to " +
         text(s.outH) + "x" + text(s.outW) + "x" + text(s.outC) + ", kernel " + text(s.kernel) + ", stride " +
         text(s.stride) + ", pad " + text(s.pad) + ", " + typeName(s.type) +
         (s.type == DnnType::kFloat32 && s.math == DnnMath::kTensorCores ? " as tf32" : "") + rest;
}

int64_t sourceBytes(const ConvSpec& s) { return s.n * s.h * s.w * s.c * dnnBytes(s.type); }
int64_t outBytes(const ConvSpec& s, DnnType type) { return s.outPixels() * s.outC * dnnBytes(type); }

fe::graph::Pointwise_attributes pointwise(const char* name, fe::PointwiseMode_t mode) {
  return fe::graph::Pointwise_attributes().set_name(name).set_mode(mode).set_compute_data_type(fe::DataType_t::FLOAT);
}

FrontendGraph convForwardGraph(const ConvSpec& s, const ConvEpilogue& epilogue) {
  const FrontendGraph graph = emptyGraph("conv");
  auto y = graph->conv_fprop(graph->tensor(source(s)), graph->tensor(weight(s)),
                             attributes<fe::graph::Conv_fprop_attributes>(s, "conv"));
  if (epilogue.residual) {
    const auto residual =
        graph->tensor(tensor(kConvResidual, "residual", s.n, s.outH, s.outW, s.outC, epilogue.residualType));
    y = graph->pointwise(y, residual, pointwise("add residual", fe::PointwiseMode_t::ADD));
  }
  if (epilogue.bias) {
    const auto bias = graph->tensor(tensor(kConvBias, "bias", 1, 1, 1, s.outC, DnnType::kFloat32));
    y = graph->pointwise(y, bias, pointwise("add bias", fe::PointwiseMode_t::ADD));
  }
  if (epilogue.activation == Activation::kRelu6)
    y = graph->pointwise(
        y, pointwise("relu6", fe::PointwiseMode_t::RELU_FWD).set_relu_lower_clip(0.0f).set_relu_upper_clip(6.0f));
  if (epilogue.activation == Activation::kSilu)
    y = graph->pointwise(y, pointwise("silu", fe::PointwiseMode_t::SWISH_FWD).set_swish_beta(1.0f));
  const Tensor_attributes out = tensor(kConvOut, "y", s.n, s.outH, s.outW, s.outC, epilogue.out);
  y->set_output(true)
      .set_name("y")
      .set_uid(kConvOut)
      .set_dim(out.get_dim())
      .set_stride(out.get_stride())
      .set_data_type(out.get_data_type());
  return graph;
}

FrontendGraph convDataGradientGraph(const ConvSpec& s) {
  const FrontendGraph graph = emptyGraph("conv data gradient");
  const auto dx = graph->conv_dgrad(graph->tensor(outGradient(s)), graph->tensor(weight(s)),
                                    attributes<fe::graph::Conv_dgrad_attributes>(s, "dgrad"));
  dx->set_output(true)
      .set_name("dx")
      .set_uid(kConvSourceGradient)
      .set_dim({s.n, s.c, s.h, s.w})
      .set_stride({s.h * s.w * s.c, 1, s.w * s.c, s.c})
      .set_data_type(frontendType(s.type));
  return graph;
}

FrontendGraph convWeightGradientGraph(const ConvSpec& s, DnnType out) {
  const FrontendGraph graph = emptyGraph("conv weight gradient");
  const auto dw = graph->conv_wgrad(graph->tensor(outGradient(s)), graph->tensor(source(s)),
                                    attributes<fe::graph::Conv_wgrad_attributes>(s, "wgrad"));
  const Tensor_attributes like = weight(s);
  dw->set_output(true)
      .set_name("dw")
      .set_uid(kConvWeightGradient)
      .set_dim(like.get_dim())
      .set_stride(like.get_stride())
      .set_data_type(frontendType(out));
  return graph;
}

}  // namespace

std::shared_ptr<const DnnGraph> convForward(const CudaDevice& device, const ConvSpec& spec,
                                            const ConvEpilogue& epilogue, std::string* why) {
  DnnRequest request;
  std::string rest = std::string(", out ") + typeName(epilogue.out);
  if (epilogue.bias) rest += ", bias";
  if (epilogue.residual) rest += std::string(", residual ") + typeName(epilogue.residualType);
  if (epilogue.activation != Activation::kNone) rest += epilogue.activation == Activation::kSilu ? ", silu" : ", relu6";
  request.key = keyOf("conv", spec, rest);
  request.math = spec.math;
  request.make = [=] { return convForwardGraph(spec, epilogue); };
  request.tensors = {{kConvSource, sourceBytes(spec)},
                     {kConvWeight, spec.weights() * dnnBytes(spec.type)},
                     {kConvOut, outBytes(spec, epilogue.out)}};
  if (epilogue.bias) request.tensors.emplace_back(kConvBias, spec.outC * 4);
  if (epilogue.residual) request.tensors.emplace_back(kConvResidual, outBytes(spec, epilogue.residualType));
  request.layoutOnly = spec.layoutOnly;
  return compileGraph(device, request, why);
}

std::shared_ptr<const DnnGraph> convDataGradient(const CudaDevice& device, const ConvSpec& spec, std::string* why) {
  DnnRequest request;
  request.key = keyOf("conv data gradient", spec, "");
  request.math = spec.math;
  request.make = [=] { return convDataGradientGraph(spec); };
  request.tensors = {{kConvOutGradient, outBytes(spec, spec.type)},
                     {kConvWeight, spec.weights() * dnnBytes(spec.type)},
                     {kConvSourceGradient, sourceBytes(spec)}};
  request.layoutOnly = spec.layoutOnly;
  return compileGraph(device, request, why);
}

std::shared_ptr<const DnnGraph> convWeightGradient(const CudaDevice& device, const ConvSpec& spec, DnnType out,
                                                   std::string* why) {
  DnnRequest request;
  request.key = keyOf("conv weight gradient", spec, std::string(", out ") + typeName(out));
  request.math = spec.math;
  request.make = [=] { return convWeightGradientGraph(spec, out); };
  request.tensors = {{kConvOutGradient, outBytes(spec, spec.type)},
                     {kConvSource, sourceBytes(spec)},
                     {kConvWeightGradient, spec.weights() * dnnBytes(out)}};
  request.layoutOnly = spec.layoutOnly;
  return compileGraph(device, request, why);
}

}  // namespace ddad
