#include "train/trainer_config.h"

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {

TrainerConfig TrainerConfig::fromJson(const nlohmann::json& config) {
  TrainerConfig c;
  c.unet = UNetConfig::fromJson(requireObject(config, "unet"));
  const auto& diffusion = requireObject(config, "diffusion");
  c.schedule = stringField(diffusion, "schedule", "linear");
  c.diffusionSteps = static_cast<int>(integerField(diffusion, "steps", 2, 100000, 1000));
  c.respacing = stringField(diffusion, "respacing", "");
  const std::string loss = stringField(diffusion, "loss", "rescaled_mse");
  if (loss != "mse" && loss != "rescaled_mse")
    throw Error("ERR_CONFIG", "diffusion.loss: expected mse or rescaled_mse, got " + loss);
  c.rescaledLoss = loss == "rescaled_mse";
  const auto& input = requireObject(config, "input");
  c.size = integerField(input, "size", 1, 4096);
  const auto& training = requireObject(config, "training");
  c.samplesRepeat = stringField(input, "mode", "crop") == "resize" && numberField(training, "rotation", 0, 180, 0) == 0;
  c.batch = integerField(training, "batchSize", 1, 4096);
  c.seed = static_cast<uint64_t>(integerField(training, "seed", 0, int64_t{1} << 53, 0));
  c.features = FeatureConfig::fromJson(config);
  if (static_cast<bool>(c.features) != (c.unet.featureChannels > 0))
    throw Error("ERR_CONFIG",
                "features: expected strides with a feature head (unet.featureChannels above 0), and none "
                "without");
  const auto focus = training.find("focus");
  if (focus != training.end() && !focus->is_null()) {
    c.focusShare = numberField(*focus, "share", 0, 1, 0);
    c.focusBelow = static_cast<int>(integerField(*focus, "below", 1, c.diffusionSteps));
  }
  c.optimizer.weightDecay = numberField(training, "weightDecay", 0, 1, c.optimizer.weightDecay);
  c.optimizer.ema = numberField(training, "ema", 0, 1, c.optimizer.ema);
  c.optimizer.emaWarmup = booleanField(training, "emaWarmup", true);
  c.optimizer.eps = numberField(training, "eps", 1e-20, 1, c.optimizer.eps);
  const auto betas = training.find("betas");
  if (betas != training.end() && !betas->is_null()) {
    const bool pair = betas->is_array() && betas->size() == 2 && (*betas)[0].is_number() && (*betas)[1].is_number();
    if (!pair) throw Error("ERR_CONFIG", "training.betas: expected two numbers, got " + betas->dump().substr(0, 80));
    c.optimizer.beta1 = (*betas)[0].get<double>();
    c.optimizer.beta2 = (*betas)[1].get<double>();
    for (double b : {c.optimizer.beta1, c.optimizer.beta2})
      if (!(b >= 0 && b < 1))
        throw Error("ERR_CONFIG", "training.betas: expected numbers from 0 to below 1, got " + std::to_string(b));
  }
  return c;
}

}  // namespace ddad
