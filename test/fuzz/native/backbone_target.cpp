// Weights of the backbone, up to the features of a small image.
#include <algorithm>
#include <utility>

#include "backbone/features.h"
#include "base/cancel.h"
#include "device/device.h"
#include "device/open_device.h"
#include "support.h"

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

/// The tiny backbone with squeeze-excite in every block, in the names of timm.
std::vector<SeedTensor> timmBackbone() {
  std::vector<SeedTensor> tensors = tinyBackbone("", false), squeezes;
  const auto find = [&](const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const SeedTensor& t) { return t.name == name; });
  };
  for (int stage = 0; find("_blocks." + std::to_string(stage) + "._bn1.weight") != tensors.end(); ++stage) {
    const std::string from = "_blocks." + std::to_string(stage) + ".", to = "blocks." + std::to_string(stage) + ".0.";
    const int64_t wide = find(from + "_bn1.weight")->shape[0];
    squeezes.push_back({to + "se.conv_reduce.weight", {4, wide, 1, 1}, {}});
    squeezes.push_back({to + "se.conv_reduce.bias", {4}, {}});
    squeezes.push_back({to + "se.conv_expand.weight", {wide, 4, 1, 1}, {}});
    squeezes.push_back({to + "se.conv_expand.bias", {wide}, {}});
    const bool expands = find(from + "_expand_conv.weight") != tensors.end();
    const std::pair<std::string, std::string> names[] = {{"_expand_conv", "conv_pw"},
                                                         {"_depthwise_conv", "conv_dw"},
                                                         {"_project_conv", expands ? "conv_pwl" : "conv_pw"},
                                                         {"_bn2", expands ? "bn3" : "bn2"},
                                                         {"_bn1", expands ? "bn2" : "bn1"},
                                                         {"_bn0", "bn1"}};
    for (SeedTensor& t : tensors)
      for (const auto& [old, name] : names)
        if (t.name.starts_with(from + old)) t.name = to + name + t.name.substr(from.size() + old.size());
  }
  for (SeedTensor& t : tensors)
    if (t.name.starts_with("_conv_stem") || t.name.starts_with("_bn0"))
      t.name = (t.name[1] == 'c' ? "conv_stem" : "bn1") + t.name.substr(t.name.find('.'));
  tensors.insert(tensors.end(), squeezes.begin(), squeezes.end());
  return tensors;
}

std::vector<std::string> seeds() {
  return {seedFile({}, tinyBackbone("", true)), seedFile({{"batchNormEps", "0.001"}}, tinyBackbone("", false)),
          seedFile({{"paddingMode", "same"}, {"activationFunction", "swish"}}, timmBackbone())};
}

const Registered registered({"backbone", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
