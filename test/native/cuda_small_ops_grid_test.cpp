// The bodies of the GPU's resampling, embeddings, depthwise convolution and squeeze-and-excitation, run over their
// grids on the CPU, against the CPU's own ops.
#include <cmath>
#include <functional>

#include "cuda_helpers.h"
#include "device/open_device.h"
#include "doctest.h"
#include "graph/plan.h"
#include "op_cases.h"
#include "ops/depthwise/depthwise_grid.h"
#include "ops/embedding/embedding_grid.h"
#include "ops/resample/resample_grid.h"
#include "ops/squeeze_excite/squeeze_excite_grid.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

/// A case of the table as the CPU computes it.
struct CpuCase {
  OpCase c;
  OpCaseGraph g;
  std::shared_ptr<Device> cpu = openDevice("cpu", 1);
  ParameterBlock block;
  std::unique_ptr<Plan> plan;
  std::vector<std::vector<float>> in, inGradient;
  std::vector<float> out, direction;

  explicit CpuCase(const OpCase& opCase) : c(opCase), g(buildOpCase(opCase)) {
    const int64_t floats = g.graph.parameterFloats();
    block = ParameterBlock(AlignedBuffer(floats), AlignedBuffer(floats));
    const std::vector<float> weights = randomValues(floats, 3);
    std::copy(weights.begin(), weights.end(), block.values.data());
    const bool up = c.kind == OpKind::kUpsample;
    PlanOptions options{c.batch, up ? 2 * c.height : c.height, up ? 2 * c.width : c.width};
    options.training = options.inputGradients = c.kind != OpKind::kTimestepEmbedding;
    plan = std::make_unique<Plan>(*cpu, g.graph, options, block);
    for (size_t i = 0; i < g.inputs.size(); ++i) {
      in.push_back(randomValues(plan->shape(g.inputs[i]).size(), static_cast<uint32_t>(10 + i)));
      for (size_t n = 0; n < in[i].size(); ++n) {
        if (c.kind == OpKind::kLabelEmbedding && i == 1) in[i][n] = static_cast<float>((n * 3) % 4);
        if (c.kind == OpKind::kTimestepEmbedding) in[i][n] = static_cast<float>(n * 431);
      }
      plan->write(g.inputs[i], in[i].data());
    }
    plan->prepare();
    plan->forward(Cancel());
    out = hostCopy(*cpu, plan->value(g.output), plan->shape(g.output).size());
    direction = randomValues(static_cast<int64_t>(out.size()), 4);
    if (!options.training) return;
    plan->writeGradient(g.output, direction.data());
    plan->backward(Cancel());
    for (const TensorId id : g.inputs)
      inGradient.push_back(plan->gradient(id) ? hostCopy(*cpu, plan->gradient(id), plan->shape(id).size())
                                              : std::vector<float>());
  }
  const Shape& shape(size_t i) const { return plan->shape(g.inputs[i]); }
  const Shape& outShape() const { return plan->shape(g.output); }
  const float* parameter(size_t i) const { return block.values.data() + g.graph.params()[i].offset; }
  std::vector<float> parameterGradient(size_t i) const {
    const float* from = block.gradients.data() + g.graph.params()[i].offset;
    return {from, from + g.graph.params()[i].size()};
  }
};

void check(const std::string& what, const std::vector<float>& got, const std::vector<float>& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  const double error = relativeDistance(got, want);
  CHECK_MESSAGE(error <= tolerance, what << ": " << error);
}

void forEachCase(OpKind kind, const std::function<void(CpuCase&)>& f) {
  int count = 0;
  for (const OpCase& c : opCases()) {
    if (c.kind != kind) continue;
    CAPTURE(c.name);
    CpuCase of(c);
    f(of);
    ++count;
  }
  CHECK(count > 0);
}

template <class T>
std::vector<T> typed(const std::vector<float>& values) {
  std::vector<T> of;
  for (const float v : values) of.push_back(fromFloat<T>(v));
  return of;
}
template <class T>
std::vector<float> floats(const std::vector<T>& values) {
  std::vector<float> of;
  for (const T v : values) of.push_back(toFloat(v));
  return of;
}

/// Coarse and fine values both ways, with and without what was there before.
template <class T>
void checkResample(int64_t channels, double tolerance) {
  const int64_t samples = 2, height = 3, width = 5, coarse = samples * height * width * channels;
  const ResamplePlace place = {samples * height, width, channels};
  const auto from = typed<T>(randomValues(coarse, 1)), fine = typed<T>(randomValues(4 * coarse, 2));
  const auto index = [&](int64_t n, int64_t y, int64_t x, int64_t c, int64_t h, int64_t w) {
    return static_cast<size_t>(((n * h + y) * w + x) * channels + c);
  };
  for (const bool accumulate : {false, true}) {
    auto spread = fine;
    SpreadPixels<T, T> up{place, from.data(), spread.data(), 0.25f, accumulate, channels % kRun == 0};
    runGrid(up);
    auto gathered = from;
    GatherPixels<T, T> down{place, fine.data(), gathered.data(), 0.5f, accumulate, channels % kRun == 0};
    runGrid(down);
    std::vector<float> wantSpread(fine.size()), wantGathered(from.size());
    for (int64_t n = 0; n < samples; ++n)
      for (int64_t y = 0; y < 2 * height; ++y)
        for (int64_t x = 0; x < 2 * width; ++x)
          for (int64_t c = 0; c < channels; ++c) {
            const size_t f = index(n, y, x, c, 2 * height, 2 * width), s = index(n, y / 2, x / 2, c, height, width);
            wantSpread[f] = (accumulate ? toFloat(fine[f]) : 0.0f) + 0.25f * toFloat(from[s]);
            wantGathered[s] += 0.5f * toFloat(fine[f]);
          }
    if (accumulate)
      for (size_t i = 0; i < wantGathered.size(); ++i) wantGathered[i] += toFloat(from[i]);
    check("spread", floats(spread), wantSpread, tolerance);
    check("gathered", floats(gathered), wantGathered, tolerance);
  }
}

}  // namespace

TEST_CASE("grid: resampling") {
  for (const int64_t channels : {8, 20, 3}) {
    checkResample<float>(channels, 1e-6);
    checkResample<Bf16>(channels, 4e-3);
  }
}

TEST_CASE("grid: embeddings") {
  forEachCase(OpKind::kTimestepEmbedding, [](CpuCase& of) {
    std::vector<float> out(of.out.size(), NAN);
    const TimestepValues kernel{of.in[0].data(), out.data(), of.outShape().n, of.outShape().c};
    runGrid(kernel);
    check("value", out, of.out, 1e-6);
  });
  forEachCase(OpKind::kLabelEmbedding, [](CpuCase& of) {
    const int64_t n = of.outShape().n, c = of.outShape().c;
    std::vector<float> out(of.out.size(), NAN);
    const LabelValues kernel{of.in[0].data(), of.in[1].data(), of.parameter(0), out.data(), n, c};
    runGrid(kernel);
    check("value", out, of.out, 1e-7);
    std::vector<float> table(of.parameterGradient(0).size(), NAN);
    const LabelTableGradient gradient{of.in[1].data(), of.direction.data(), table.data(), n, c, of.c.attr.classes};
    runGrid(gradient);
    check("table", table, of.parameterGradient(0), 1e-6);
  });
}

TEST_CASE("grid: depthwise convolution") {
  forEachCase(OpKind::kDepthwiseConv, [](CpuCase& of) {
    const OpAttributes& attr = of.c.attr;
    const Shape &in = of.shape(0), &o = of.outShape();
    const DepthwisePlace place = {in.n, in.h, in.w, o.h, o.w, o.c, attr.kernel, attr.stride, attr.pad};
    std::vector<float> sums(of.out.size(), NAN), out(of.out.size(), NAN);
    const DepthwiseForward forward{place,       of.in[0].data(), of.parameter(0), of.parameter(1),
                                   sums.data(), out.data(),      attr.activation};
    runGrid(forward);
    check("value", out, of.out, 2e-6);
    std::vector<float> gradient = of.direction;
    for (size_t i = 0; i < gradient.size(); ++i)
      gradient[i] *= activationSlope(attr.activation, attr.activation == Activation::kSilu ? sums[i] : out[i]);
    for (const bool accumulate : {false, true}) {
      std::vector<float> data = randomValues(in.size(), 8), before = data;
      const DepthwiseDataGradient kernel{place, gradient.data(), of.parameter(0), data.data(), accumulate};
      runGrid(kernel);
      for (size_t i = 0; i < data.size(); ++i) data[i] -= accumulate ? before[i] : 0.0f;
      check("data gradient", data, of.inGradient[0], 5e-6);
    }
    std::vector<float> weight(of.parameterGradient(0).size(), NAN);
    const DepthwiseWeightGradient kernel{place, of.in[0].data(), gradient.data(), weight.data()};
    runGrid(kernel);
    check("weight gradient", weight, of.parameterGradient(0), 5e-6);
  });
}

TEST_CASE("grid: squeeze and excitation") {
  forEachCase(OpKind::kSqueezeExcite, [](CpuCase& of) {
    const Shape& o = of.outShape();
    const int64_t pixels = o.h * o.w, reduced = of.c.attr.reduced;
    std::vector<float> memory(static_cast<size_t>(o.n * 2 * (o.c + reduced)), NAN), out(of.out.size(), NAN);
    const SqueezeSaved saved = {memory.data(), o.c, reduced};
    const auto sums = [&](const float* a, const float* b, float* to, int64_t stride, float scale) {
      const ChannelSums kernel{a, b, to, o.n, pixels, o.c, stride, scale};
      runGrid(kernel);
    };
    sums(of.in[0].data(), nullptr, memory.data(), saved.size(), 1.0f / static_cast<float>(pixels));
    const SqueezeGate gate{
        saved, of.parameter(0), of.parameter(1), of.parameter(2), of.parameter(3), of.c.attr.activation, o.n};
    runGrid(gate);
    const SqueezeScale scale{saved, of.in[0].data(), nullptr, out.data(), o.n, pixels, false};
    runGrid(scale);
    check("value", out, of.out, 2e-6);

    std::vector<float> gateGradient(static_cast<size_t>(o.n * o.c), NAN), shift(gateGradient),
        argument(static_cast<size_t>(o.n * reduced), NAN);
    sums(of.in[0].data(), of.direction.data(), gateGradient.data(), o.c, 1.0f);
    const SqueezeVectorGradients vectors{saved,
                                         of.parameter(0),
                                         of.parameter(2),
                                         of.c.attr.activation,
                                         gateGradient.data(),
                                         argument.data(),
                                         shift.data(),
                                         o.n,
                                         pixels};
    runGrid(vectors);
    for (const bool accumulate : {false, true}) {
      std::vector<float> data = randomValues(o.size(), 8), before = data;
      const SqueezeScale back{saved, of.direction.data(), shift.data(), data.data(), o.n, pixels, accumulate};
      runGrid(back);
      for (size_t i = 0; i < data.size(); ++i) data[i] -= accumulate ? before[i] : 0.0f;
      check("data gradient", data, of.inGradient[0], 5e-6);
    }
    std::vector<std::vector<float>> gradients;
    for (size_t i = 0; i < 4; ++i) gradients.emplace_back(of.parameterGradient(i).size(), NAN);
    const SqueezeWeightGradient first{argument.data(),     saved.mean(0),      o.n, reduced, o.c, reduced, saved.size(),
                                      gradients[0].data(), gradients[1].data()};
    runGrid(first);
    const SqueezeWeightGradient second{gateGradient.data(), saved.hidden(0),    o.n, o.c, reduced, o.c, saved.size(),
                                       gradients[2].data(), gradients[3].data()};
    runGrid(second);
    for (size_t i = 0; i < 4; ++i) check("parameter gradient", gradients[i], of.parameterGradient(i), 2e-5);
  });
}
