// The library's convolution behind the same interface: what the own kernels are measured against.
#include "ops/conv/onednn_conv.h"

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>

#include "device/parallel.h"
#include "ops/conv/conv_gradients.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

using Tag = dnnl::memory::format_tag;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

/// One primitive with its memory objects; data handles are set before each execution, scratch memory is the plan's.
struct Primitive {
  dnnl::primitive primitive;
  std::unordered_map<int, dnnl::memory> arguments;
  int64_t scratchFloats = 0;

  void run(dnnl::stream& stream, const std::vector<std::pair<int, const float*>>& data, float* scratch) {
    for (const auto& [argument, pointer] : data) arguments.at(argument).set_data_handle(const_cast<float*>(pointer));
    arguments.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch);
    primitive.execute(stream, arguments);
    stream.wait();
  }
};

int64_t floatsOf(const dnnl::memory::desc& desc) { return (static_cast<int64_t>(desc.get_size()) / 4 + 15) / 16 * 16; }

class OnednnConv : public Op {
 public:
  explicit OnednnConv(OpContext context) : Op(std::move(context)), stream_(engine()) {
    useTeam(context_.device->threads());
    build();
  }

  const char* kernelName() const override { return "onednn"; }
  bool backwardReadsInput(int i) const override { return i == 0; }
  bool mayOverwrite(int i) const override { return i == 1; }
  bool gradientPassesThrough(int i) const override { return i == 1; }
  double flops() const override {
    const int64_t k = attr().kernel;
    return 2.0 * static_cast<double>(context_.out.size()) * static_cast<double>(k * k * context_.in[0].c);
  }
  PackedLayout packedLayout() const override { return PackedLayout::kOnednn; }
  int64_t packedFloats() const override { return forwardWeights_ + (needsData() ? dataWeights_ : 0); }
  int64_t forwardWorkspaceFloats() const override { return forward_.scratchFloats; }
  int64_t backwardWorkspaceFloats() const override {
    return std::max(data_.scratchFloats, weights_.scratchFloats + weightFloats_) +
           (needsData() && context_.training ? context_.in[0].size() : 0) + 16;
  }

  void prepare() override {
    useTeam(context_.device->threads());
    reorder(plain_, forwardDesc_, buffers_.param[0], buffers_.packed);
    if (needsData()) reorder(plain_, dataDesc_, buffers_.param[0], buffers_.packed + forwardWeights_);
  }

  void forward() override {
    useTeam(context_.device->threads());
    if (attr().residual && buffers_.in[1] != buffers_.out) copy(buffers_.out, buffers_.in[1], context_.out.size());
    std::vector<std::pair<int, const float*>> data = {
        {DNNL_ARG_SRC, buffers_.in[0]}, {DNNL_ARG_WEIGHTS, buffers_.packed}, {DNNL_ARG_DST, buffers_.out}};
    if (attr().bias) data.emplace_back(DNNL_ARG_BIAS, buffers_.param[1]);
    forward_.run(stream_, data, buffers_.workspace);
  }

  void backward() override {
    useTeam(context_.device->threads());
    float* workspace = buffers_.backwardWorkspace;
    if (needsData()) {
      const bool add = buffers_.accumulate[0];
      float* to = add ? workspace : buffers_.inGrad[0];
      data_.run(stream_,
                {{DNNL_ARG_DIFF_DST, buffers_.outGrad},
                 {DNNL_ARG_WEIGHTS, buffers_.packed + forwardWeights_},
                 {DNNL_ARG_DIFF_SRC, to}},
                workspace + context_.in[0].size());
      if (add) DDAD_DISPATCH(addInto)(buffers_.inGrad[0], to, context_.in[0].size());
    }
    if (context_.paramGradient) {
      std::vector<std::pair<int, const float*>> data = {
          {DNNL_ARG_SRC, buffers_.in[0]}, {DNNL_ARG_DIFF_DST, buffers_.outGrad}, {DNNL_ARG_DIFF_WEIGHTS, workspace}};
      if (attr().bias) data.emplace_back(DNNL_ARG_DIFF_BIAS, buffers_.paramGrad[1]);
      weights_.run(stream_, data, workspace + weightFloats_);
      reorder(weightsDesc_, plain_, workspace, buffers_.paramGrad[0]);
    }
    addResidualGradient(context_, buffers_);
  }

 private:
  bool needsData() const { return context_.inputGradient[0]; }

  static void copy(float* to, const float* from, int64_t n) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
  }

  void reorder(const dnnl::memory::desc& from, const dnnl::memory::desc& to, const float* source, float* target) {
    dnnl::memory a(from, engine(), const_cast<float*>(source)), b(to, engine(), target);
    dnnl::reorder(a, b).execute(stream_, a, b);
    stream_.wait();
  }

  void build() {
    using desc = dnnl::memory::desc;
    constexpr auto f32 = dnnl::memory::data_type::f32;
    const Shape &in = context_.in[0], &out = context_.out;
    const int64_t k = attr().kernel, stride = attr().stride, pad = attr().pad;
    const desc x({in.n, in.c, in.h, in.w}, f32, Tag::nhwc), y({out.n, out.c, out.h, out.w}, f32, Tag::nhwc);
    const desc w({out.c, in.c, k, k}, f32, Tag::any), b({out.c}, f32, Tag::a);
    plain_ = desc({out.c, in.c, k, k}, f32, Tag::oihw);
    const auto padAfter = [&](int64_t outSize, int64_t inSize) { return (outSize - 1) * stride + k - inSize - pad; };
    const dnnl::memory::dims strides = {stride, stride}, before = {pad, pad},
                             after = {padAfter(out.h, in.h), padAfter(out.w, in.w)};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::primitive_attr fused = attributes;
    dnnl::post_ops after_ops;
    if (attr().residual) after_ops.append_sum(1.0f);
    if (attr().activation == Activation::kRelu6) after_ops.append_eltwise(dnnl::algorithm::eltwise_clip, 0.0f, 6.0f);
    if (attr().activation == Activation::kSilu) after_ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
    fused.set_post_ops(after_ops);
    const auto direct = dnnl::algorithm::convolution_direct;
    const auto kind = context_.training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
    const desc bias = attr().bias ? b : desc();
    const dnnl::convolution_forward::primitive_desc f(engine(), kind, direct, x, w, bias, y, strides, before, after,
                                                      fused);
    forwardDesc_ = f.weights_desc();
    forwardWeights_ = floatsOf(forwardDesc_);
    forward_ = make(dnnl::convolution_forward(f), f.scratchpad_desc(),
                    {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, forwardDesc_}, {DNNL_ARG_DST, y}, {DNNL_ARG_BIAS, bias}});
    if (!context_.training) return;
    const dnnl::convolution_forward::primitive_desc hint(engine(), kind, direct, x, w, bias, y, strides, before, after);
    const dnnl::convolution_backward_data::primitive_desc d(engine(), direct, x, w, y, strides, before, after, hint,
                                                            attributes);
    dataDesc_ = d.weights_desc();
    dataWeights_ = floatsOf(dataDesc_);
    data_ = make(dnnl::convolution_backward_data(d), d.scratchpad_desc(),
                 {{DNNL_ARG_DIFF_SRC, x}, {DNNL_ARG_WEIGHTS, dataDesc_}, {DNNL_ARG_DIFF_DST, y}});
    const dnnl::convolution_backward_weights::primitive_desc g(engine(), direct, x, w, bias, y, strides, before, after,
                                                               hint, attributes);
    weightsDesc_ = g.diff_weights_desc();
    weightFloats_ = floatsOf(weightsDesc_);
    weights_ = make(
        dnnl::convolution_backward_weights(g), g.scratchpad_desc(),
        {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_WEIGHTS, weightsDesc_}, {DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_DIFF_BIAS, bias}});
  }

  static Primitive make(dnnl::primitive primitive, const dnnl::memory::desc& scratch,
                        const std::vector<std::pair<int, dnnl::memory::desc>>& arguments) {
    Primitive p;
    p.primitive = std::move(primitive);
    p.scratchFloats = floatsOf(scratch);
    for (const auto& [argument, desc] : arguments)
      if (desc.get_size() > 0) p.arguments.emplace(argument, dnnl::memory(desc, engine(), nullptr));
    p.arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(scratch, engine(), nullptr));
    return p;
  }

  dnnl::stream stream_;
  Primitive forward_, data_, weights_;
  dnnl::memory::desc plain_, forwardDesc_, dataDesc_, weightsDesc_;
  int64_t forwardWeights_ = 0, dataWeights_ = 0, weightFloats_ = 0;
};

}  // namespace

std::unique_ptr<Op> makeOnednnConv(const OpContext& context) {
  if (context.record->attr.sources > 1) return nullptr;
  try {
    return std::make_unique<OnednnConv>(context);
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_unimplemented) return nullptr;
    throw Error("ERR_INTERNAL", context.record->name + ": oneDNN: " + e.what());
  }
}

}  // namespace ddad
