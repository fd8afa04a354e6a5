// Weights of the backbone, up to the features of a small image.
#include "backbone/features.h"
#include "device/device.h"
#include "support.h"
#include "tensor/cancel.h"

namespace ddad::fuzz {
namespace {

constexpr int64_t kMostFloats = int64_t{1} << 18;

void run(std::string_view input) {
  static MemoryFile memory("backbone");
  static const auto device = openDevice("cpu", 1);
  openInput(memory, input);
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    const SafetensorsFile file = SafetensorsFile::open(memory.path());
    mayFail({"ERR_MODEL_FORMAT"}, [&] { loadBackbone(file, "", 2); });
    FeatureSource source = openFeatures(file, "", {{2, 4, 8, 16}});
    if (source.block.values.size() > kMostFloats) return;
    FeatureExtractor extractor(*device, source, 1, 16, 16);
    const std::vector<float> image(size_t{16} * 16);
    std::vector<float> out(static_cast<size_t>(extractor.positions() * source.channels()));
    extractor.run(image.data(), 1, out.data(), Cancel());
  });
}

std::vector<std::string> seeds() {
  return {seedFile({}, tinyBackbone("", true)), seedFile({{"batchNormEps", "0.001"}}, tinyBackbone("", false))};
}

const Registered registered({"backbone", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
