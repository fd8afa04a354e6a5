// Golden files of kind "diffusion": schedules, the posterior, losses and reverse steps.
#include <algorithm>
#include <numbers>
#include <numeric>

#include "base/error.h"
#include "device/device_buffer.h"
#include "file/json_fields.h"
#include "file/safetensors.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "verify/compare.h"
#include "verify/verify.h"

namespace ddad {
namespace {

constexpr double kScheduleTolerance = 1e-12, kTolerance = 1e-5, kMapTolerance = 1e-4, kPriorTolerance = 1e-2;

/// The inputs of one file, in the engine's layout, and the checks on them.
class DiffusionCheck {
 public:
  explicit DiffusionCheck(VerifyContext& context)
      : context_(context), compare_(context.comparison), device_(context.device) {
    const nlohmann::json& spec = context.spec;
    const nlohmann::json respacing = spec.value("respacing", nlohmann::json());
    schedule_ =
        makeSchedule(spec.at("schedule"), static_cast<int>(integerField(spec, "diffusionSteps", 2, 100000)),
                     respacing.is_null() ? std::nullopt : std::optional<std::string>(respacing.get<std::string>()));
    const std::string loss = spec.at("loss");
    if (loss != "mse" && loss != "rescaled_mse")
      throw Error("ERR_MODEL_FORMAT", context.file.path() + ": loss: expected mse or rescaled_mse, got " + loss);
    vbWeight_ = loss == "mse" ? 1.0 : schedule_.steps() / 1000.0;
    if (!spec.value("learnSigma", true))
      throw Error("ERR_MODEL_FORMAT", context.file.path() + ": expected a learned variance (learnSigma)");

    shape_ = context.file.get("x0").shape;
    if (shape_.size() != 4 || *std::ranges::min_element(shape_) < 1)
      throw Error("ERR_MODEL_FORMAT", context.file.path() + ": x0: expected [N, C, H, W], got " + shapeText(shape_));
    batch_ = {shape_[0], shape_[2] * shape_[3], static_cast<int>(shape_[1])};
    x0_ = images("x0", shape_[1]);
    noise_ = images("noise", shape_[1]);
    z_ = images("z", shape_[1]);
    modelOutput_ = images("model_output", 2 * shape_[1]);
    compare_.input("t");
    t_ = context.file.ints("t");
    if (static_cast<int64_t>(t_.size()) != batch_.samples)
      throw Error("ERR_MODEL_FORMAT", context.file.path() + ": t: expected one step a sample");
    for (int64_t n = 0; n < batch_.samples; ++n) {
      coefficients_.push_back(stepCoefficients(schedule_, t_[n]));
      noiseSources_.push_back({.values = noise_.device() + n * batch_.elements()});
      zSources_.push_back({.values = z_.device() + n * batch_.elements()});
    }
  }

  void checkSchedule() {
    const int64_t steps[] = {schedule_.steps()};
    const auto check = [&](const char* name, const std::vector<double>& values) {
      compare_.check(name, values, steps, kScheduleTolerance);
    };
    check("betas", schedule_.betas);
    check("alphas_cumprod", schedule_.alphasCumprod);
    check("alphas_cumprod_prev", schedule_.alphasCumprodPrev);
    check("sqrt_recip_alphas_cumprod", schedule_.sqrtRecipAlphasCumprod);
    check("sqrt_recipm1_alphas_cumprod", schedule_.sqrtRecipm1AlphasCumprod);
    check("posterior_variance", schedule_.posteriorVariance);
    check("posterior_log_variance_clipped", schedule_.posteriorLogVarianceClipped);
    check("posterior_mean_coef1", schedule_.posteriorMeanCoef1);
    check("posterior_mean_coef2", schedule_.posteriorMeanCoef2);
    compare_.checkExact("timestep_map", schedule_.timestepMap, steps);
  }

  void checkForward() {
    xt_ = Mirrored<float>(device_, x0_.size());
    noising(device_, batch_, x0View(), coefficients_.data(), noiseSources_.data(), xt_.device());
    checkImages("x_t", fetch(xt_), kTolerance);

    std::vector<float> mean(x0_.size()), logVariance(x0_.size());
    for (size_t i = 0; i < mean.size(); ++i) {
      const StepCoefficients& k = coefficients_[i / batch_.elements()];
      mean[i] = posteriorMean(k, x0_.host()[i], xt_.host()[i]);
      logVariance[i] = k.posteriorLogVariance;
    }
    checkImages("q_posterior_mean", mean, kTolerance);
    checkImages("q_posterior_log_variance", logVariance, kTolerance);

    Mirrored<double> prior(device_, batch_.samples);
    priorBits(device_, batch_, x0View(), stepCoefficients(schedule_, schedule_.steps() - 1), prior.device());
    checkSamples("prior_bits", fetch(prior), kPriorTolerance);
  }

  void checkReverse(bool clip) {
    const std::string suffix = clip ? ".clip" : ".noclip";
    Mirrored<float> xstart = output(x0_.size()), mean = output(x0_.size()), logVariance = output(x0_.size()),
                    next = output(x0_.size());
    reverseStep(device_, batch_, xt_.device(), modelOutput_.device(), coefficients_.data(), nullptr, zSources_.data(),
                clip, {xstart.device(), mean.device(), logVariance.device(), next.device()});
    checkImages("pred_xstart" + suffix, fetch(xstart), kTolerance);
    checkImages("p_mean" + suffix, fetch(mean), kTolerance);
    checkImages("p_log_variance" + suffix, fetch(logVariance), kTolerance);
    if (!clip) return;
    checkImages("p_sample", fetch(next), kTolerance);
    std::vector<DdimCoefficients> ddim;
    for (const int32_t t : t_) ddim.push_back(ddimCoefficients(schedule_, t, 0.0));
    reverseStep(device_, batch_, xt_.device(), modelOutput_.device(), coefficients_.data(), ddim.data(), nullptr, clip,
                {.next = next.device()});
    checkImages("ddim_sample.eta0", fetch(next), kTolerance);
  }

  void checkVariational(bool clip) {
    const std::string suffix = clip ? ".clip" : ".noclip";
    const std::vector<float> kl = variational(clip, false);
    checkImages("kl_map_nats" + suffix, kl, kMapTolerance);
    const std::vector<float> decoder = variational(clip, true);
    const std::string name = "decoder_nll_map_nats" + suffix;
    if (t_[0] == 0) {
      const int64_t shape[] = {1, shape_[1], shape_[2], shape_[3]};
      const std::span<const float> first(decoder.data(), batch_.elements());
      compare_.check(name, std::span<const float>(toNchw(first, 1, batch_.channels, batch_.pixels)), shape,
                     kMapTolerance);
    } else if (context_.file.find(name) != nullptr) {
      compare_.fail(name,
                    "the discretised likelihood holds at step 0, but the first sample's t is " + std::to_string(t_[0]));
    }

    std::vector<double> bits;
    for (int64_t n = 0; n < batch_.samples; ++n) {
      const float* nats = (t_[n] == 0 ? decoder : kl).data() + n * batch_.elements();
      bits.push_back(std::accumulate(nats, nats + batch_.elements(), 0.0) / static_cast<double>(batch_.elements()) /
                     std::numbers::ln2);
    }
    checkSamples("vb_bits" + suffix, bits, kTolerance);
    if (clip) checkScoreKernel(kl);
  }

  void checkLoss() {
    Mirrored<SampleLoss> losses(device_, batch_.samples);
    Mirrored<float> gradient = output(modelOutput_.size());
    diffusionLoss(device_, batch_, x0View(), modelOutput_.device(), coefficients_.data(), noiseSources_.data(),
                  vbWeight_, batch_.samples, losses.device(), gradient.device());
    std::vector<double> loss, mse, vb;
    for (const SampleLoss& sample : fetch(losses)) {
      loss.push_back(sample.loss);
      mse.push_back(sample.mse);
      vb.push_back(sample.vb);
    }
    checkSamples("loss.loss", loss, kTolerance);
    checkSamples("loss.mse", mse, kTolerance);
    checkSamples("loss.vb", vb, kTolerance);
    const int64_t shape[] = {shape_[0], 2 * shape_[1], shape_[2], shape_[3]};
    compare_.check("grad.model_output",
                   std::span<const float>(toNchw(fetch(gradient), batch_.samples, 2 * batch_.channels, batch_.pixels)),
                   shape, kTolerance);
  }

 private:
  ImageView x0View() const { return {x0_.device(), batch_.elements()}; }

  Mirrored<float> output(int64_t size) const { return Mirrored<float>(device_, size); }

  /// What the device has computed, on the host.
  template <class T>
  std::span<const T> fetch(Mirrored<T>& values) const {
    values.download();
    device_.synchronize();
    return {values.host(), static_cast<size_t>(values.size())};
  }

  std::vector<float> variational(bool clip, bool decoder) const {
    Mirrored<float> nats = output(x0_.size());
    variationalMap(device_, batch_, x0View(), modelOutput_.device(), coefficients_.data(), noiseSources_.data(), clip,
                   decoder, nats.device());
    const auto values = fetch(nats);
    return {values.begin(), values.end()};
  }

  Mirrored<float> images(const std::string& name, int64_t channels) {
    compare_.input(name);
    const int64_t shape[] = {shape_[0], channels, shape_[2], shape_[3]};
    const TensorEntry& entry = context_.file.get(name);
    if (!std::ranges::equal(entry.shape, shape))
      throw Error("ERR_MODEL_FORMAT", context_.file.path() + ": " + name + ": expected " + shapeText(shape) + ", got " +
                                          shapeText(entry.shape));
    const auto nhwc = toNhwc(context_.file.floats(name), shape_[0], channels, shape_[2] * shape_[3]);
    Mirrored<float> values(device_, static_cast<int64_t>(nhwc.size()));
    std::copy(nhwc.begin(), nhwc.end(), values.host());
    values.upload();
    device_.synchronize();
    return values;
  }

  void checkImages(const std::string& name, std::span<const float> nhwc, double tolerance) {
    compare_.check(name, std::span<const float>(toNchw(nhwc, batch_.samples, batch_.channels, batch_.pixels)), shape_,
                   tolerance);
  }

  void checkSamples(const std::string& name, std::span<const double> values, double tolerance) {
    const int64_t shape[] = {batch_.samples};
    compare_.check(name, values, shape, tolerance);
  }

  /// The score's own kernel must give the mean over channels of the map above, which the file vouches for.
  void checkScoreKernel(const std::vector<float>& kl) {
    Mirrored<float> scored = output(batch_.samples * batch_.pixels);
    pixelScore(device_, PixelMeasure::kKl, batch_, x0View(), modelOutput_.device(), coefficients_.data(),
               noiseSources_.data(), nullptr, scored.device(), nullptr, nullptr);
    const std::span<const float> score = fetch(scored);
    double difference = 0.0, norm = 0.0;
    for (size_t p = 0; p < score.size(); ++p) {
      double mean = 0.0;
      for (int c = 0; c < batch_.channels; ++c) mean += kl[p * batch_.channels + c];
      mean /= batch_.channels;
      difference += (score[p] - mean) * (score[p] - mean);
      norm += mean * mean;
    }
    if (!(difference <= norm * kTolerance * kTolerance))
      compare_.fail("kl_map_nats.clip (score)", "the score's kernel disagrees with the mean over channels");
  }

  VerifyContext& context_;
  Comparison& compare_;
  const Device& device_;
  Schedule schedule_;
  double vbWeight_ = 1.0;
  std::vector<int64_t> shape_;  // [N, C, H, W]
  ImageBatch batch_;
  Mirrored<float> x0_, noise_, z_, modelOutput_, xt_;
  std::vector<int32_t> t_;
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noiseSources_, zSources_;
};

}  // namespace

void verifyDiffusion(VerifyContext& context) {
  DiffusionCheck check(context);
  check.checkSchedule();
  check.checkForward();
  for (const bool clip : {true, false}) {
    context.cancel.check();
    check.checkReverse(clip);
    check.checkVariational(clip);
  }
  check.checkLoss();
}

}  // namespace ddad
