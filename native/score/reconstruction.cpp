#include "score/reconstruction.h"

#include <algorithm>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

constexpr int64_t kMostImages = 1024;
constexpr int64_t kMostSide = 4096;  // of a sample

/// A whole image goes through the network at once, since its parts must fit to each other. Attention costs the square
/// of the pixels: this far beyond a tile, which scoring takes, it still is bearable.
void checkSize(const ScoreModel& model, int64_t height, int64_t width) {
  const int64_t tile = model.config().tile, most = 4 * tile * tile;
  const nlohmann::json& input = model.json().value("input", nlohmann::json::object());
  const bool whole = input.value("mode", "") == "resize";  // the size that the model was trained at
  if (whole || height * width <= most) return;
  throw Error("ERR_IMAGE", "image: a reconstruction takes an image whole, at most " + std::to_string(most) +
                               " pixels (" + std::to_string(2 * tile) + " x " + std::to_string(2 * tile) + "), got " +
                               std::to_string(width) + " x " + std::to_string(height) +
                               "; give it the part that matters");
}

}  // namespace

ReconstructOptions ReconstructOptions::fromJson(const nlohmann::json& json, const ScoreModel& model) {
  ReconstructOptions o;
  const std::string method = stringField(json, "method", "gradient");
  if (method != "ddpm" && method != "ddim" && method != "gradient")
    throw Error("ERR_CONFIG", "method: expected ddpm, ddim or gradient, got " + method.substr(0, 40));
  o.method = method == "ddpm"   ? ReconstructMethod::kDdpm
             : method == "ddim" ? ReconstructMethod::kDdim
                                : ReconstructMethod::kGradient;
  const nlohmann::json& diffusion = requireObject(model.json(), "diffusion");
  o.reverse.schedule = makeSchedule(stringField(diffusion, "schedule", "linear"),
                                    static_cast<int>(integerField(diffusion, "steps", 2, 100000, 1000)),
                                    stringField(json, "respacing", ""));
  const int last = o.reverse.schedule.steps() - 1;
  const int step = static_cast<int>(integerField(json, "step", 0, last, last));
  o.reverse.start = step;
  o.reverse.ddim = o.method == ReconstructMethod::kDdim;
  o.reverse.eta = numberField(json, "eta", 0, 1, 0);
  o.reverse.seed = static_cast<uint64_t>(integerField(json, "seed", 0, int64_t{1} << 53, 0));
  o.gradient.denoiseStep = step;
  o.gradient.gradientSteps = static_cast<int>(integerField(json, "gradientSteps", 1, 1000, o.gradient.gradientSteps));
  o.gradient.stepSize = numberField(json, "stepSize", 0, 1, o.gradient.stepSize);
  o.rounds = static_cast<int>(integerField(json, "rounds", 1, 100000, o.rounds));
  return o;
}

Reconstruction::Reconstruction(std::shared_ptr<const Device> device, ScoreModel& model, ReconstructOptions options,
                               const std::vector<ScoreRequest>& images, PlanMemory memory)
    : device_(std::move(device)),
      model_(model),
      options_(std::move(options)),
      images_(static_cast<int64_t>(images.size())),
      channels_(model.config().unet.inChannels),
      memory_(std::move(memory)) {
  if (images.empty()) throw Error("ERR_ARGUMENT", "images: expected at least one");
  const ScoreRequest& first = images.front();
  std::vector<int> labels;
  for (const ScoreRequest& image : images) {
    model.checkRequest(image);
    if (image.width != first.width || image.height != first.height)
      throw Error("ERR_ARGUMENT", "images: expected one size, got " + std::to_string(first.width) + " x " +
                                      std::to_string(first.height) + " and " + std::to_string(image.width) + " x " +
                                      std::to_string(image.height));
    labels.push_back(image.label);
  }
  checkSize(model, first.height, first.width);
  const bool gradient = options_.method == ReconstructMethod::kGradient;
  if (gradient && !model.features()) throw Error("ERR_CONFIG", "features: method gradient needs a model with features");
  height_ = paddedSide(model, first.height, gradient);
  width_ = paddedSide(model, first.width, gradient);
  compile(labels);
  const int64_t scale = model.features() ? model.features()->scale : 1;
  AlignedBuffer fine(scale > 1 ? height_.padded * width_.padded * scale * scale * channels_ : 0);
  for (int64_t i = 0; i < images_; ++i)
    loadTile(images[static_cast<size_t>(i)], {0, 0, first.width, first.height}, height_.padded, width_.padded, scale,
             fine, chain_->image(i));
  // every image at the same place of the stream: what becomes of it does not depend on those beside it
  const std::vector<uint32_t> samples(images.size());
  if (gradient)
    chain_->upload();
  else
    chain_->startFromImages(samples.data());
}

Reconstruction::Reconstruction(std::shared_ptr<const Device> device, ScoreModel& model, ReconstructOptions options,
                               const SampleRequest& request, PlanMemory memory)
    : device_(std::move(device)),
      model_(model),
      options_(std::move(options)),
      images_(request.count),
      channels_(model.config().unet.inChannels),
      memory_(std::move(memory)) {
  if (options_.method == ReconstructMethod::kGradient)
    throw Error("ERR_CONFIG", "method: expected ddpm or ddim for samples, got gradient");
  if (images_ < 1 || images_ > kMostImages || request.height < 1 || request.width < 1 || request.height > kMostSide ||
      request.width > kMostSide)
    throw Error("ERR_ARGUMENT", "samples: expected 1 to " + std::to_string(kMostImages) + " of at most " +
                                    std::to_string(kMostSide) + " pixels a side");
  model.checkLabel(request.label);
  checkSize(model, request.height, request.width);
  height_ = paddedSide(model, request.height, false);
  width_ = paddedSide(model, request.width, false);
  compile(std::vector<int>(static_cast<size_t>(images_), request.label));
  std::vector<uint32_t> samples;
  for (int64_t i = 0; i < images_; ++i) samples.push_back(request.first + static_cast<uint32_t>(i));
  chain_->startFromNoise(samples.data());
}

void Reconstruction::compile(const std::vector<int>& labels) {
  chain_ = std::make_unique<ReverseChain>(*device_, model_.net(), model_.parameters(), options_.reverse, images_,
                                          height_.padded, width_.padded, &memory_);
  for (size_t i = 0; i < labels.size(); ++i) chain_->setLabel(static_cast<int64_t>(i), std::max(labels[i], 0));
  if (options_.method != ReconstructMethod::kGradient) return;
  const auto gaussian = model_.gaussian(labels[0]);
  if (!std::all_of(labels.begin(), labels.end(), [&](int label) { return label == labels[0]; }))
    throw Error("ERR_ARGUMENT", "images: expected one product, since each has a Gaussian of its own");
  if (!gaussian) throw Error("ERR_CONFIG", "padim: the model has no Gaussian of good features, which gradient needs");
  checkGrid(gaussian->shape, height_.padded, width_.padded);
  distance_ = std::make_unique<FeatureDistance>(*device_, *model_.features(), gaussian->shape.dims, images_,
                                                height_.padded, width_.padded, true);
  rounds_ = std::make_unique<GradientRounds>(*device_, *chain_, *distance_, gaussian, options_.gradient, images_,
                                             height_.padded * width_.padded * channels_, channels_);
}

int Reconstruction::steps() const { return rounds_ ? options_.rounds : options_.reverse.start + 1; }

void Reconstruction::advance(const Cancel& cancel) {
  if (done_ >= steps()) throw Error("ERR_ARGUMENT", "the reconstruction has ended");
  if (rounds_)
    rounds_->round(cancel);
  else
    chain_->step(cancel);
  ++done_;
}

void Reconstruction::copyImage(int64_t i, float* to) const {
  chain_->download();
  const float* from = chain_->image(i);
  const int64_t row = width() * channels_;
  for (int64_t y = 0; y < height(); ++y)
    for (int64_t x = 0; x < row; ++x) *to++ = (clampUnit(from[y * width_.padded * channels_ + x]) + 1.0f) * 0.5f;
}

}  // namespace ddad
