#include "kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>

#include "device/dispatch.h"
#include "device/open_device.h"
#include "ops/conv/conv_kernels.h"
#include "score/score_pass.h"
#include "train/trainer.h"
#include "unet/initialize.h"

namespace ddad::bench {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

json configuration(bool lite) {
  const int size = lite ? 128 : 64;
  return {{"unet",
           {{"imageSize", size},
            {"inChannels", 3},
            {"modelChannels", 32},
            {"outChannels", 6},
            {"numResBlocks", 1},
            {"attentionResolutions", lite ? json{16} : json::array()},
            {"channelMult", lite ? json{1, 2, 2, 4} : json{1, 2, 2}},
            {"numHeadChannels", 32},
            {"useScaleShiftNorm", true},
            {"resblockUpdown", true}}},
          {"diffusion", {{"schedule", "linear"}, {"steps", 1000}, {"loss", "rescaled_mse"}}},
          {"input", {{"size", size}}},
          {"score", {{"scales", {5, 50, 100}}, {"normalization", "none"}}},
          {"training", {{"batchSize", 8}}}};
}

struct Contender {
  const char* name;
  ConvKernel kernel;
};
constexpr Contender kContenders[] = {{"direct", ConvKernel::kDirect},
                                     {"winograd", ConvKernel::kWinograd},
                                     {"onednn", ConvKernel::kOnednn},
                                     {"auto", ConvKernel::kAuto}};

/// Medians in milliseconds, contenders taking turns.
void compare(const char* title, double gflop, int rounds, const std::function<std::function<void()>()>& make) {
  std::vector<std::function<void()>> runs;
  for (const Contender& c : kContenders) {
    setConvKernel(c.kernel);
    runs.push_back(make());
    runs.back()();
  }
  std::vector<std::vector<double>> times(runs.size());
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto start = Clock::now();
      runs[i]();
      times[i].push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
  std::printf("%-24s", title);
  for (size_t i = 0; i < runs.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    const double median = times[i][times[i].size() / 2];
    std::printf("  %s %8.1f ms", kContenders[i].name, median);
    if (gflop > 0) std::printf(" (%5.0f GFLOP/s)", gflop / median * 1e3);
  }
  std::printf("\n");
}

}  // namespace

int runKernelBench(int threads, int rounds) {
  const auto device = openDevice("cpu", threads);
  std::printf("%s, %d threads, %d rounds, medians; GFLOP/s count the operations of the plain convolution\n",
              isaName(cpuIsa()), device->threads(), rounds);
  for (bool lite : {false, true}) {
    const json config = configuration(lite);
    const ScoreConfig score = ScoreConfig::fromJson(config);
    const UNet net = buildUNet(score.unet);
    ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
    initializeUNet(net, 1, block.values.data());
    const int64_t size = config["input"]["size"];
    for (int images : {1, 4}) {
      const std::string title = std::string(lite ? "lite" : "nano") + " score, " + std::to_string(images);
      ScorePass counted(*device, net, score, block, nullptr, images, size, size);
      compare(title.c_str(), counted.plan().flops() / 1e9, rounds, [&] {
        auto pass = std::make_shared<ScorePass>(*device, net, score, block, nullptr, images, size, size);
        pass->prepare();
        return [pass, images] { pass->run(std::vector<uint32_t>(static_cast<size_t>(images)).data(), Cancel()); };
      });
    }
    compare(lite ? "lite train, batch 8" : "nano train, batch 8", 0, std::max(3, rounds / 3), [&] {
      auto trainer = std::make_shared<Trainer>(device, config);
      auto pixels = std::make_shared<std::vector<float>>(static_cast<size_t>(trainer->batchFloats()), 0.1f);
      return [trainer, pixels] { trainer->step(pixels->data(), nullptr, 1e-4, Cancel()); };
    });
  }
  return 0;
}

}  // namespace ddad::bench
