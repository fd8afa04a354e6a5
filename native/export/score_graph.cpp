#include "export/score_graph.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/philox.h"
#include "device/open_device.h"
#include "noise/noising.h"
#include "score/image/pixels.h"
#include "score/image/resize.h"

namespace ddad {
namespace {

using Ints = std::vector<int64_t>;

constexpr int64_t kMemoryBlock = 2048;  // residuals compared at once: bounds what the products of an image take

class Builder {
 public:
  Builder(OnnxModel& model, const ExportSource& source, const ScoreSetup& setup)
      : m_(model),
        source_(source),
        s_(setup),
        c_(setup.config),
        scales_(static_cast<int64_t>(c_.steps.size())),
        channels_(c_.unet.inChannels) {
    for (const int step : c_.steps) steps_.push_back(stepCoefficients(c_.schedule, step));
  }

  void build() {
    const std::string sizes = "in the range of images from -1 to 1: pixel / 127.5 - 1";
    x0_ = m_.input({"x0", false, {"batch", channels_, s_.imageHeight(), s_.imageWidth()}, "the image, " + sizes});
    reduced_ = x0_;
    if (s_.scale > 1) {
      const Ints cell = {s_.scale, s_.scale};
      reduced_ = m_.node("AveragePool", {x0_}, {{"kernel_shape", cell}, {"strides", cell}});
    }
    noise_ = noise();
    runNetwork();
    const OnnxValue pixelMap = pixelScore();
    const OnnxValue featureMap = s_.features ? featureScore() : OnnxValue();
    combine(pixelMap, featureMap);
  }

 private:
  OnnxValue add(const OnnxValue& a, const OnnxValue& b) { return m_.node("Add", {a, b}); }
  OnnxValue sub(const OnnxValue& a, const OnnxValue& b) { return m_.node("Sub", {a, b}); }
  OnnxValue mul(const OnnxValue& a, const OnnxValue& b) { return m_.node("Mul", {a, b}); }
  OnnxValue mul(const OnnxValue& a, double b) { return mul(a, m_.scalar(static_cast<float>(b))); }
  OnnxValue add(const OnnxValue& a, double b) { return add(a, m_.scalar(static_cast<float>(b))); }
  OnnxValue reshape(const OnnxValue& x, const Ints& shape) { return m_.node("Reshape", {x, m_.integers(shape)}); }
  OnnxValue mean(const OnnxValue& x, const Ints& axes, bool keep = false) {
    return m_.node("ReduceMean", {x}, {{"axes", axes}, {"keepdims", int64_t{keep}}});
  }
  OnnxValue sum(const OnnxValue& x, const Ints& axes, bool keep = false) {
    return m_.node("ReduceSum", {x, m_.integers(axes)}, {{"keepdims", int64_t{keep}}});
  }
  OnnxValue transpose(const OnnxValue& x, const Ints& perm) { return m_.node("Transpose", {x}, {{"perm", perm}}); }
  /// A coefficient of each noise scale, along the first of `rank` axes.
  template <class F>
  OnnxValue perScale(size_t rank, F value) {
    std::vector<float> values;
    for (size_t s = 0; s < steps_.size(); ++s) values.push_back(static_cast<float>(value(s)));
    Ints shape(rank, 1);
    shape[0] = scales_;
    return m_.constant(values, std::move(shape));
  }
  OnnxValue coefficient(float StepCoefficients::* field) {
    return perScale(5, [&](size_t s) { return steps_[s].*field; });
  }

  /// Bilinear, corners not aligned (base/bilinear.h).
  OnnxValue resize(const OnnxValue& x, int64_t height, int64_t width, int64_t outHeight, int64_t outWidth) {
    if (height == outHeight && width == outWidth) return x;
    const auto ratio = [](int64_t to, int64_t from) { return static_cast<float>(to) / static_cast<float>(from); };
    return m_.node("Resize", {x, "", m_.constant({1, 1, ratio(outHeight, height), ratio(outWidth, width)}, {4})},
                   {{"mode", std::string("linear")}, {"coordinate_transformation_mode", std::string("half_pixel")}});
  }
  /// A map [N, height, width] at the image's size.
  OnnxValue enlarge(const OnnxValue& map, int64_t height, int64_t width) {
    const OnnxValue large =
        resize(reshape(map, {-1, 1, height, width}), height, width, s_.imageHeight(), s_.imageWidth());
    return reshape(large, {-1, s_.imageHeight(), s_.imageWidth()});
  }

  /// [S, N, C, h, w]; the engine's own is the same for every image, [S, 1, C, h, w].
  OnnxValue noise() {
    if (!s_.constantNoise) {
      const OnnxValue given = m_.input({"noise",
                                        false,
                                        {"batch", scales_ * channels_, s_.height, s_.width},
                                        "standard normal; the channels of each noise scale after the other"});
      return transpose(reshape(given, {0, scales_, channels_, s_.height, s_.width}), {1, 0, 2, 3, 4});
    }
    const int64_t pixels = s_.height * s_.width;
    std::vector<float> values, interleaved(static_cast<size_t>(pixels * channels_));
    const auto device = openDevice("cpu", 1);
    for (int64_t s = 0; s < scales_; ++s) {
      NoiseSource from;
      from.seed = c_.seed;
      from.stream = kStreamScoreNoise;
      from.step = static_cast<uint32_t>(s);
      fillNormal(*device, from, pixels * channels_, interleaved.data());
      for (int64_t c = 0; c < channels_; ++c)
        for (int64_t p = 0; p < pixels; ++p) values.push_back(interleaved[static_cast<size_t>(p * channels_ + c)]);
    }
    return m_.constant(values, {scales_, 1, channels_, s_.height, s_.width});
  }

  /// All noise scales of all images in one batch, scale by scale.
  void runNetwork() {
    const OnnxValue xt = add(mul(reduced_, coefficient(&StepCoefficients::sqrtAlphasCumprod)),
                             mul(noise_, coefficient(&StepCoefficients::sqrtOneMinusAlphasCumprod)));
    const UNet& net = source_.net();
    std::vector<OnnxValue> values(net.graph.tensors().size());
    const auto at = [&](TensorId id) -> OnnxValue& { return values[static_cast<size_t>(id)]; };
    const OnnxValue batch = m_.node("Shape", {x0_}, {{"start", int64_t{0}}, {"end", int64_t{1}}});
    const OnnxValue rows = m_.node("Concat", {m_.integers({scales_}), batch}, {{"axis", int64_t{0}}});
    const auto spread = [&](const OnnxValue& x) { return reshape(m_.node("Expand", {x, rows}), {-1}); };
    Ints indices(static_cast<size_t>(scales_));
    std::iota(indices.begin(), indices.end(), 0);
    at(net.x) = reshape(xt, {-1, channels_, s_.height, s_.width});
    at(net.t) = spread(m_.integers(indices, {scales_, 1}));
    if (net.y >= 0) at(net.y) = spread(m_.integers({s_.label}, {1, 1}));

    OnnxNetwork network{&net.graph, source_.reader(), "", OnnxSize{s_.height, s_.width}, {}};
    for (const int step : c_.steps) network.timesteps.push_back(c_.schedule.timestepMap[static_cast<size_t>(step)]);
    appendNetwork(m_, network, values);
    m_.scope("score");
    const OnnxValue out = reshape(at(net.out), {scales_, -1, 2 * channels_, s_.height, s_.width});
    const auto parts = m_.nodes("Split", {out}, 2, {{"axis", int64_t{2}}});
    eps_ = parts[0];
    v_ = parts[1];
    if (net.features >= 0)
      fhat_ = reshape(at(net.features), {scales_, -1, c_.unet.featureChannels, gridHeight(), gridWidth()});
  }

  /// xhat0 - x_0 with xhat0 clamped to [-1, 1] (noise/diffusion_math.h: clampedXStartError).
  OnnxValue clampedError() {
    const OnnxValue error = mul(sub(noise_, eps_), coefficient(&StepCoefficients::sqrtRecipm1));
    const OnnxValue low = sub(m_.scalar(-1), reduced_), high = sub(m_.scalar(1), reduced_);
    return m_.node("Min", {m_.node("Max", {error, low}), high});
  }

  /// e^x - 1 - x, by its series where the difference would cancel (base/vecmath.h: expMinusOneMinus).
  OnnxValue expMinusOneMinus(const OnnxValue& x, const OnnxValue& exponential) {
    double factorial = 40320;  // 8!
    OnnxValue series = m_.scalar(static_cast<float>(1 / factorial));
    for (int n = 8; n > 2; --n) {
      factorial /= n;
      series = add(mul(series, x), 1 / factorial);
    }
    const OnnxValue near = mul(mul(series, x), x), far = sub(add(exponential, -1), x);
    return m_.node("Where", {m_.node("Less", {m_.node("Abs", {x}), m_.scalar(0.5f)}), near, far});
  }

  /// The KL (9) in nats, by element (noise/diffusion_math.h: klNats).
  OnnxValue klElements(const OnnxValue& error) {
    const OnnxValue half = perScale(5, [&](size_t s) { return -0.5f * steps_[s].logVarianceRange; });
    const OnnxValue gap = mul(add(v_, 1), half), exponential = m_.node("Exp", {gap});
    const OnnxValue means = mul(mul(mul(error, error), coefficient(&StepCoefficients::klWeight)), exponential);
    return mul(add(expMinusOneMinus(gap, exponential), means), 0.5);
  }

  /// A value of each scale [S, N, height, width], normalised where there is a calibration, averaged over the scales.
  OnnxValue meanOverScales(const OnnxValue& values, const std::vector<double>& means, const std::vector<double>& stds) {
    if (c_.normalization != Normalization::kCalibration) return mean(values, {0});
    const auto count = static_cast<double>(scales_);
    const OnnxValue scaled = mul(values, perScale(4, [&](size_t s) { return 1 / (stds[s] * count); }));
    return sum(add(scaled, perScale(4, [&](size_t s) { return -means[s] / (stds[s] * count); })), {0});
  }

  /// (KL - mean) / std, both over all elements of the image at that scale, averaged over the scales.
  OnnxValue normalisePerImage(const OnnxValue& elements, const OnnxValue& kl) {
    const Ints all = {2, 3, 4};
    const auto count = static_cast<double>(channels_ * s_.height * s_.width);
    const OnnxValue centre = mean(elements, all, true), deviation = sub(elements, centre);
    const OnnxValue std = m_.node("Sqrt", {mul(sum(mul(deviation, deviation), all, true), 1 / (count - 1))});
    const OnnxValue inverse =
        m_.node("Where", {m_.node("Greater", {std, m_.scalar(0)}), m_.node("Reciprocal", {std}), m_.scalar(0)});
    const auto flat = [&](const OnnxValue& x) { return reshape(x, {scales_, -1, 1, 1}); };
    return mean(mul(sub(kl, flat(centre)), flat(inverse)), {0});
  }

  OnnxValue normalisePlaces(const PositionGrid& grid, const OnnxValue& map) {
    if (grid.mean.empty()) return map;
    const int64_t h = s_.imageHeight(), w = s_.imageWidth();
    const auto spread = [&](const std::vector<float>& from) {
      std::vector<float> to(static_cast<size_t>(h * w));
      resizeBilinear(1, from.data(), c_.gridWidth, c_.gridHeight, to.data(), w, h);
      return m_.constant(to, {h, w});
    };
    return m_.node("Div", {sub(map, spread(grid.mean)), spread(grid.std)});
  }

  /// What the blur does to a line of n pixels, as a matrix; transposed where the line is a row of the map.
  OnnxValue blurMatrix(int64_t n, bool transposed) {
    std::vector<float> matrix(static_cast<size_t>(n * n));
    for (int64_t j = 0; j < n; ++j) {
      std::vector<float> line(static_cast<size_t>(n));
      line[static_cast<size_t>(j)] = 1;
      gaussianBlur(1, line, 1, n, c_.smoothing);
      for (int64_t i = 0; i < n; ++i)
        matrix[static_cast<size_t>(transposed ? j * n + i : i * n + j)] = line[static_cast<size_t>(i)];
    }
    return m_.constant(matrix, {n, n});
  }
  OnnxValue smooth(const OnnxValue& map) {
    if (c_.smoothing <= 0) return map;
    const OnnxValue columns = m_.node("MatMul", {blurMatrix(s_.imageHeight(), false), map});
    return m_.node("MatMul", {columns, blurMatrix(s_.imageWidth(), true)});
  }

  OnnxValue pixelScore() {
    const bool rgb = c_.kind == ScoreKind::kRgb;
    const OnnxValue error = clampedError();
    const OnnxValue elements = rgb ? mul(error, error) : klElements(error);
    const OnnxValue values = mean(elements, {2});
    m_.output({rgb ? "rgb" : "kl",
               false,
               {"batch", scales_, s_.height, s_.width},
               rgb ? "squared error of the reconstruction, mean over channels, a noise scale each"
                   : "KL of equation (9) in nats, mean over channels, a noise scale each"},
              transpose(values, {1, 0, 2, 3}));
    OnnxValue map = c_.normalization == Normalization::kPerImage ? normalisePerImage(elements, values)
                    : rgb                                        ? meanOverScales(values, c_.rgbMean, c_.rgbStd)
                                                                 : meanOverScales(values, c_.mean, c_.std);
    map = enlarge(map, s_.height, s_.width);
    if (!rgb) map = normalisePlaces(c_.pixelGrid, map);
    map = smooth(map);
    outputMap("pixelMap", "the pixel-level score, normalised and averaged over the noise scales", map);
    return map;
  }

  /// f(x_0) [N, F, h / 4, w / 4], normalised by channel.
  OnnxValue targetFeatures() {
    const FeatureSource& f = *s_.features;
    std::vector<OnnxValue> values(f.backbone.graph.tensors().size());
    values[static_cast<size_t>(f.backbone.input)] =
        channels_ == 3 ? x0_ : m_.node("Concat", {x0_, x0_, x0_}, {{"axis", int64_t{1}}});
    const auto read = [&f](const ParamSpec& p, float* to) {
      std::copy_n(f.block.values.data() + p.offset, p.size(), to);
    };
    const OnnxSize size{s_.imageHeight(), s_.imageWidth()};
    appendNetwork(m_, {&f.backbone.graph, read, "backbone.", size, {}}, values);
    m_.scope("score");
    std::vector<OnnxValue> taps;
    for (const Backbone::Tap& tap : f.taps)
      taps.push_back(resize(values[static_cast<size_t>(tap.tensor)], size.height >> tap.level, size.width >> tap.level,
                            gridHeight(), gridWidth()));
    const OnnxValue all = taps.size() == 1 ? taps[0] : m_.node("Concat", taps, {{"axis", int64_t{1}}});
    std::vector<float> inverse;
    for (const float std : f.std) inverse.push_back(1.0f / std);
    const Ints shape = {f.channels(), 1, 1};
    return mul(sub(all, m_.constant(f.mean, shape)), m_.constant(inverse, shape));
  }

  OnnxValue featureScore() {
    const OnnxValue target = targetFeatures(), difference = sub(fhat_, target);
    const OnnxValue errors = mean(mul(difference, difference), {2});
    m_.output({"featureError",
               false,
               {"batch", scales_, gridHeight(), gridWidth()},
               "squared error of the predicted features of equation (10), mean over channels, a noise scale each"},
              transpose(errors, {1, 0, 2, 3}));
    OnnxValue map = enlarge(meanOverScales(errors, c_.featureMean, c_.featureStd), gridHeight(), gridWidth());
    map = normalisePlaces(c_.featureGrid, map);
    if (c_.memoryWeight > 0) {
      const OnnxValue distance = enlarge(nearestResidual(difference), gridHeight(), gridWidth());
      const OnnxValue normalised = mul(add(distance, -c_.memoryMean), 1 / c_.memoryStd);
      map = add(mul(map, 1 - c_.memoryWeight), mul(normalised, c_.memoryWeight));
    }
    map = smooth(map);
    outputMap("featureMap", "the feature-level score, normalised and averaged over the noise scales", map);
    return map;
  }

  /// The distance [N, h / 4, w / 4] of pooled residuals to the nearest of good images
  /// (score/evidence/residual_memory.h).
  OnnxValue nearestResidual(const OnnxValue& difference) {
    const int64_t f = s_.features->channels(), count = static_cast<int64_t>(s_.residuals.size()) / f;
    const OnnxValue pooled =
        m_.node("AveragePool", {mean(difference, {0})},
                {{"kernel_shape", Ints{3, 3}}, {"pads", Ints{1, 1, 1, 1}}, {"count_include_pad", int64_t{1}}});
    const OnnxValue rows = reshape(transpose(pooled, {0, 2, 3, 1}), {-1, f});
    std::vector<OnnxValue> nearest;
    for (int64_t first = 0; first < count; first += kMemoryBlock) {
      const int64_t n = std::min(kMemoryBlock, count - first);
      const float* from = s_.residuals.data() + first * f;
      std::vector<float> squares;
      for (int64_t i = 0; i < n; ++i)
        squares.push_back(static_cast<float>(std::inner_product(from + i * f, from + (i + 1) * f, from + i * f, 0.0)));
      const OnnxValue block = m_.weight("residual_memory." + std::to_string(first), {n, f},
                                        [from, n, f](float* to) { std::copy_n(from, n * f, to); });
      // |a - b|^2 = |a|^2 + (|b|^2 - 2 a b)
      const OnnxValue products =
          m_.node("Gemm", {rows, block, m_.constant(squares, {n})}, {{"alpha", -2.0f}, {"transB", int64_t{1}}});
      nearest.push_back(m_.node("ReduceMin", {products}, {{"axes", Ints{1}}, {"keepdims", int64_t{1}}}));
    }
    const OnnxValue least = nearest.size() == 1 ? nearest[0] : m_.node("Min", nearest);
    const OnnxValue squared = add(sum(mul(rows, rows), {1}, true), least);
    const OnnxValue distance = m_.node("Sqrt", {m_.node("Max", {squared, m_.scalar(0)})});
    return reshape(distance, {-1, gridHeight(), gridWidth()});
  }

  /// Equation (11), or the one score that the configuration names; and the image score.
  void combine(const OnnxValue& pixelMap, const OnnxValue& featureMap) {
    OnnxValue map = pixelMap;
    if (c_.source() == MapSource::kFeature) map = featureMap;
    if (c_.source() == MapSource::kBoth) {
      const bool perImage = c_.normalization == Normalization::kPerImage;
      map = add(mul(pixelMap, perImage ? 1 : c_.alpha), mul(featureMap, perImage ? 1 : 1 - c_.alpha));
    }
    outputMap("map", "what the image is judged by", map);
    const int64_t pixels = s_.imageHeight() * s_.imageWidth();
    const int64_t wanted = c_.topCount > 0 ? c_.topCount : std::lround(c_.topShare * static_cast<double>(pixels));
    const int64_t top = std::clamp<int64_t>(wanted, 1, pixels);
    const auto largest = m_.nodes("TopK", {reshape(map, {-1, pixels}), m_.integers({top})}, 2, {{"axis", int64_t{1}}});
    m_.output({"score",
               false,
               {"batch"},
               "the image score: the mean of the " + std::to_string(top) + " largest values of the map"},
              mean(largest[0], {1}));
  }

  void outputMap(const std::string& name, const std::string& about, const OnnxValue& map) {
    m_.output({name, false, {"batch", s_.imageHeight(), s_.imageWidth()}, about}, map);
  }

  int64_t gridHeight() const { return s_.height / 4; }
  int64_t gridWidth() const { return s_.width / 4; }

  OnnxModel& m_;
  const ExportSource& source_;
  const ScoreSetup& s_;
  const ScoreConfig& c_;
  const int64_t scales_, channels_;
  std::vector<StepCoefficients> steps_;
  OnnxValue x0_, reduced_, noise_, eps_, v_, fhat_;
};

}  // namespace

void buildScoreGraph(OnnxModel& model, const ExportSource& source, const ScoreSetup& setup) {
  Builder(model, source, setup).build();
}

}  // namespace ddad
