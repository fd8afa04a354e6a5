#include "backbone/batch_norm.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace ddad {

void readConvolution(const TensorSource& file, const std::string& conv, const std::string& norm, double eps,
                     const std::vector<int64_t>& shape, float* weight, float* bias) {
  const int64_t out = shape[0], perOutput = shape[1] * shape[2] * shape[3];
  file.readFloats(conv + ".weight", shape, weight);
  const int64_t vectorShape[] = {out};
  if (norm.empty() || file.has(conv + ".bias")) return file.readFloats(conv + ".bias", vectorShape, bias);
  std::vector<float> gamma(static_cast<size_t>(out)), beta(gamma), mean(gamma), variance(gamma);
  file.readFloats(norm + ".weight", vectorShape, gamma.data());
  file.readFloats(norm + ".bias", vectorShape, beta.data());
  file.readFloats(norm + ".running_mean", vectorShape, mean.data());
  file.readFloats(norm + ".running_var", vectorShape, variance.data());
  for (int64_t o = 0; o < out; ++o) {
    const auto i = static_cast<size_t>(o);
    const double scale = static_cast<double>(gamma[i]) / std::sqrt(static_cast<double>(variance[i]) + eps);
    for (int64_t k = 0; k < perOutput; ++k)
      weight[o * perOutput + k] = static_cast<float>(static_cast<double>(weight[o * perOutput + k]) * scale);
    bias[o] = static_cast<float>(static_cast<double>(beta[i]) - static_cast<double>(mean[i]) * scale);
  }
  // a negative variance, or one that is next to nothing
  const auto finite = [](float v) { return std::isfinite(v); };
  if (!std::all_of(weight, weight + out * perOutput, finite) || !std::all_of(bias, bias + out, finite))
    throw Error("ERR_MODEL_FORMAT", file.path() + ": " + norm + ": expected statistics that leave weights finite");
}

}  // namespace ddad
