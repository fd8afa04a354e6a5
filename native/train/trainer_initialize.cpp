// A trainer is made, and its weights are filled: at random, from a block or from a model file.
#include <algorithm>
#include <cstring>

#include "backbone/stored_features.h"
#include "file/checkpoint/checkpoint.h"
#include "file/digest.h"
#include "train/trainer_impl.h"
#include "unet/initialize.h"

namespace ddad {
namespace {

constexpr int64_t kFeatureCacheBytes = int64_t{512} << 20;

bool isHead(const ParamSpec& p) { return p.name.rfind("feat_rec1.", 0) == 0; }

/// Whether a file has the feature head of the graph, in its shape.
bool hasHead(const Graph& graph, const SafetensorsFile& file) {
  return std::all_of(graph.params().begin(), graph.params().end(), [&](const ParamSpec& p) {
    const TensorEntry* entry = isHead(p) ? file.find(p.name) : nullptr;
    return !isHead(p) || (entry && entry->shape == p.shape);
  });
}

}  // namespace

std::unique_ptr<FeatureSource> openTrainingFeatures(const TrainerConfig& config, const UNet& net,
                                                    const std::string& path) {
  if (net.features < 0) return nullptr;
  if (path.empty()) throw Error("ERR_CONFIG", "features: expected the weights of a backbone, got none");
  const std::unique_ptr<TensorSource> file = openTensorSource(path);
  // a checkpoint carries its backbone, folded
  const std::string prefix = file->has("backbone._conv_stem.weight") ? "backbone." : "";
  auto features = std::make_unique<FeatureSource>(openFeatures(*file, prefix, config.features));
  if (features->channels() != config.unet.featureChannels)
    throw Error("ERR_CONFIG", "unet.featureChannels: the backbone's taps have " + std::to_string(features->channels()) +
                                  " channels, got " + std::to_string(config.unet.featureChannels));
  return features;
}

TrainerImpl::TrainerImpl(std::shared_ptr<Device> device, const nlohmann::json& json, const std::string& backbone)
    : device_(std::move(device)),
      config_(TrainerConfig::fromJson(json)),
      schedule_(makeSchedule(config_.schedule, config_.diffusionSteps, config_.respacing)),
      net_(buildUNet(config_.unet)),
      features_(openTrainingFeatures(config_, net_, backbone)),
      fits_(*device_, config_, net_, features_.get()),
      parameters_(AlignedBuffer(net_.graph.parameterFloats()),
                  AlignedBuffer(device_->sharesHostMemory() ? net_.graph.parameterFloats() : 0)),
      ema_(*device_, net_.graph.parameterFloats()),
      m_(*device_, net_.graph.parameterFloats()),
      v_(*device_, net_.graph.parameterFloats()),
      seen_(*device_, config_.batch * imageFloats()),
      t_(*device_, config_.batch),
      y_(*device_, net_.y >= 0 ? config_.batch : 0),
      losses_(*device_, config_.batch),
      squaredNorm_(*device_, 1) {
  initializeUNet(net_, config_.seed, parameters_.values.data());
  PlanOptions options;
  options.batch = config_.batch;
  options.height = options.width = config_.size;
  options.training = true;
  plan_ = std::make_unique<Plan>(*device_, net_.graph, options, parameters_);
  startAverage();
  if (features_) compileFeatures();
  const auto batch = static_cast<size_t>(config_.batch);
  timesteps_.resize(batch);
  coefficients_.resize(batch);
  noise_.resize(batch);
}

void TrainerImpl::compileFeatures() {
  const int64_t side = config_.size * config_.features.scale;
  // With a cache image by image, so that only those that are new are computed. The cache is the host's: to fetch from
  // it takes a device with a memory of its own longer than to compute again.
  const bool cached = config_.samplesRepeat && device_->sharesHostMemory();
  extractor_ = std::make_unique<FeatureExtractor>(*device_, *features_, cached ? 1 : config_.batch, side, side);
  if (config_.features.scale > 1)
    reduced_ = DeviceBuffer(*device_, config_.batch * config_.size * config_.size * config_.unet.inChannels);
  target_ = DeviceBuffer(*device_, config_.batch * featureFloats());
  if (cached) cache_ = std::make_unique<FeatureCache>(featureFloats(), kFeatureCacheBytes);
  featureLosses_ = Mirrored<double>(*device_, config_.batch);
}

void TrainerImpl::setWeights(const float* block) {
  std::memcpy(parameters_.values.data(), block, static_cast<size_t>(ema_.bytes()));
  parameters_.upload();
  startAverage();
}

std::vector<std::string> TrainerImpl::initialize(const std::string& path, bool keepHead) {
  if (steps_ > 0) throw Error("ERR_ARGUMENT", "initialize: expected a trainer before its first step");
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<std::string> fresh;
  std::vector<const ParamSpec*> taken;
  keepHead = keepHead && hasHead(net_.graph, file);
  for (const ParamSpec& p : net_.graph.params()) {
    const bool mayBeFresh = isHead(p) ? !keepHead : p.name == "label_emb.weight" && !file.find(p.name);
    if (mayBeFresh) {
      fresh.push_back(p.name);
    } else {
      file.checkShape(p.name, p.shape);
      taken.push_back(&p);
    }
  }
  DigestCheck(file).finish();  // before anything is replaced
  for (const ParamSpec* p : taken) file.readFloats(p->name, p->shape, parameters_.values.data() + p->offset);
  parameters_.upload();
  startAverage();
  return fresh;
}

}  // namespace ddad
