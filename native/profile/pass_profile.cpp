#include <cmath>
#include <numeric>
#include <vector>

#include "profile/profile.h"
#include "score/score_pass.h"
#include "unet/initialize.h"

namespace ddad {

nlohmann::json profilePass(const Device& device, const nlohmann::json& config, int64_t images,
                           const Repetition& repetition, const Cancel& cancel) {
  const ScoreConfig score = ScoreConfig::fromJson(config);
  const UNet net = buildUNet(score.unet);
  ParameterBlock parameters{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  initializeUNet(net, 1, parameters.values.data());
  const auto size = config.at("input").at("size").get<int64_t>();
  ScorePass pass(device, net, score, parameters, nullptr, images, size, size);
  pass.prepare();
  for (int64_t i = 0; i < images; ++i)
    for (int64_t k = 0; k < size * size * score.unet.inChannels; ++k)
      pass.image(i)[k] = static_cast<float>(std::sin(0.013 * static_cast<double>(k + i)));
  std::vector<uint32_t> samples(static_cast<size_t>(images));
  std::iota(samples.begin(), samples.end(), 0u);
  std::vector<double> seconds;
  repeat(repetition, cancel, [&](bool warmUp) {
    const Stopwatch watch;
    pass.run(samples.data(), cancel);
    if (!warmUp) seconds.push_back(watch.seconds());
  });
  return {{"flops", pass.plan().flops()}, {"seconds", seconds}};
}

}  // namespace ddad
