#include "import/infer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "file/safetensors.h"

namespace ddad {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLevels = 8, kMaxResBlocks = 16;  // as UNetConfig has it
constexpr int64_t kMaxBlocks = kMaxLevels * (kMaxResBlocks + 1);
constexpr int64_t kCoarsest = 8;  // height and width at the last level, in all public models

[[noreturn]] void fail(const std::string& what) { throw Error("ERR_MODEL_FORMAT", what); }

class Inference {
 public:
  explicit Inference(const Shapes& shapes) : shapes_(shapes) {}

  json run(bool dropLabels) {
    const auto& time = shape("time_embed.0.weight", 2);
    channels_ = time[1];
    if (channels_ < 1 || time[0] / 4 != channels_ || time[0] % 4 != 0)
      refuse("time_embed.0.weight", "[4 * channels, channels]", time);
    const int64_t in = shape("input_blocks.0.0.weight", 4)[1];
    const int64_t out = shape("out.2.weight", 4)[0];
    if (in != 1 && in != 3)
      refuse("input_blocks.0.0.weight", "1 or 3 input channels", shape("input_blocks.0.0.weight", 4));
    if (out != 2 * in)
      refuse("out.2.weight", std::to_string(2 * in) + " output channels (noise, and a learned variance)",
             shape("out.2.weight", 4));
    const int64_t blocks = count("input_blocks");
    if (blocks != count("output_blocks"))
      fail("expected as many output blocks as input blocks, got " + std::to_string(count("output_blocks")) + " and " +
           std::to_string(blocks));
    findLevels(blocks);
    const auto emb = shape("input_blocks.1.0.emb_layers.1.weight", 2)[0];
    json unet = {{"inChannels", in},
                 {"modelChannels", channels_},
                 {"outChannels", out},
                 {"numResBlocks", resBlocks_},
                 {"channelMult", mult_},
                 {"useScaleShiftNorm", emb == 2 * width("input_blocks.1.0.")},
                 {"resblockUpdown", resblockUpdown_},
                 {"numClasses", nullptr}};
    if (!dropLabels && has("label_emb.weight")) unet["numClasses"] = shape("label_emb.weight", 2)[0];
    return unet;
  }

  /// Levels that have attention in their blocks.
  const std::vector<int64_t>& attention() const { return attention_; }
  int64_t levels() const { return static_cast<int64_t>(mult_.size()); }
  const std::vector<int64_t>& mult() const { return mult_; }
  int64_t channels() const { return channels_; }

 private:
  bool has(const std::string& name) const { return shapes_.contains(name); }

  [[noreturn]] static void refuse(const std::string& name, const std::string& expected,
                                  const std::vector<int64_t>& got) {
    fail("tensor \"" + name + "\": expected " + expected + ", got " + shapeText(got));
  }

  const std::vector<int64_t>& shape(const std::string& name, size_t dimensions) const {
    const auto found = shapes_.find(name);
    if (found == shapes_.end())
      fail("expected the parameters of a UNet of guided-diffusion, got no tensor \"" + name + "\"");
    if (found->second.size() != dimensions || std::count(found->second.begin(), found->second.end(), 0) > 0)
      refuse(name, std::to_string(dimensions) + " dimensions above 0", found->second);
    return found->second;
  }

  /// Blocks 0, 1, … of a list that there are.
  int64_t count(const std::string& list) const {
    int64_t n = 0;
    while (n <= kMaxBlocks && blockExists(list + "." + std::to_string(n))) ++n;
    if (n > kMaxBlocks) fail("expected at most " + std::to_string(kMaxBlocks) + " " + list);
    return n;
  }
  bool blockExists(const std::string& name) const {
    return has(name + ".0.in_layers.0.weight") || has(name + ".0.op.weight") || has(name + ".0.weight");
  }

  /// Output channels of a residual block, in units of the model's.
  int64_t width(const std::string& block) const { return shape(block + "out_layers.3.weight", 4)[0]; }

  /// An output block that ends in an up-sampling, by a residual block or by a convolution.
  bool upResidual(int64_t block) const { return hasPart(block, ".in_layers.0.weight"); }
  bool upPlain(int64_t block) const { return hasPart(block, ".conv.weight"); }
  bool hasPart(int64_t block, const char* what) const {
    const std::string name = "output_blocks." + std::to_string(block);
    return has(name + ".1" + what) || has(name + ".2" + what);
  }

  /// The first output block that ends in an up-sampling is the last of its level, which has one block more than
  /// numResBlocks.
  void findLevels(int64_t blocks) {
    int64_t up = 0;
    while (up < blocks && !upResidual(up) && !upPlain(up)) ++up;
    resblockUpdown_ = up < blocks && upResidual(up);
    resBlocks_ = std::min(up, blocks - 1);
    if (resBlocks_ < 1 || resBlocks_ > kMaxResBlocks || blocks % (resBlocks_ + 1) != 0)
      fail("expected the same number of blocks at each level, got " + std::to_string(blocks) +
           " blocks, the first of them " + std::to_string(resBlocks_ + 1) + " at the coarsest level");
    const int64_t levels = blocks / (resBlocks_ + 1);
    if (levels > kMaxLevels)
      fail("expected at most " + std::to_string(kMaxLevels) + " levels, got " + std::to_string(levels));
    for (int64_t level = 0; level < levels; ++level) {
      const std::string block = "input_blocks." + std::to_string(1 + level * (resBlocks_ + 1)) + ".";
      const int64_t channels = width(block + "0.");
      if (channels % channels_ != 0)
        refuse(block + "0.out_layers.3.weight",
               "a multiple of the model's " + std::to_string(channels_) + " channels (see time_embed.0.weight)",
               shape(block + "0.out_layers.3.weight", 4));
      mult_.push_back(channels / channels_);
      if (has(block + "1.qkv.weight")) attention_.push_back(level);
    }
  }

  const Shapes& shapes_;
  int64_t channels_ = 0, resBlocks_ = 0;
  bool resblockUpdown_ = false;
  std::vector<int64_t> mult_, attention_;
};

/// The middle block has attention, too, at the channels of the last level.
void checkHeads(const Inference& inference, const json& heads) {
  std::vector<int64_t> levels = inference.attention();
  levels.push_back(inference.levels() - 1);
  for (int64_t level : levels) {
    const int64_t channels = inference.mult()[static_cast<size_t>(level)] * inference.channels();
    if (!heads.is_number_integer() || heads.get<int64_t>() < 1 || channels % heads.get<int64_t>() != 0)
      throw Error("ERR_CONFIG",
                  "unet.numHeads: expected a divisor of " + std::to_string(channels) + ", got " + heads.dump());
  }
}

/// Sizes of the levels with attention, finest first.
json resolutions(const Inference& inference, int64_t imageSize) {
  json sizes = json::array();
  for (int64_t level : inference.attention()) {
    const int64_t size = imageSize >> level;
    if (size < 1 || size << level != imageSize)
      throw Error("ERR_CONFIG", "unet.imageSize: expected a multiple of " + std::to_string(int64_t{1} << level) +
                                    ", since attention stands at that stride, got " + std::to_string(imageSize));
    sizes.push_back(size);
  }
  return sizes;
}

}  // namespace

InferredUNet inferUNet(const Shapes& shapes, const json& overrides, bool dropLabels) {
  Inference inference(shapes);
  InferredUNet result;
  result.unet = inference.run(dropLabels);
  json& unet = result.unet;
  const auto assume = [&](const char* field, const json& value) {
    if (overrides.contains(field)) return;
    unet[field] = value;
    result.assumed.emplace_back(field);
  };
  unet["numHeads"] = 1;
  unet["numHeadChannels"] = -1;
  if (!overrides.contains("numHeads")) {
    const auto& mult = inference.mult();
    const bool by64 =
        std::all_of(mult.begin(), mult.end(), [&](int64_t m) { return m * inference.channels() % 64 == 0; });
    assume("numHeadChannels", by64 ? 64 : 32);
  }
  if (overrides.contains("numHeads") && !overrides.contains("numHeadChannels"))
    checkHeads(inference, overrides["numHeads"]);
  assume("useNewAttentionOrder", false);
  const int64_t finest = int64_t{1} << (inference.levels() - 1);
  assume("imageSize", kCoarsest * finest);
  unet.update(overrides);
  if (!unet["imageSize"].is_number_integer())
    throw Error("ERR_CONFIG", "unet.imageSize: expected an integer, got " + unet["imageSize"].dump());
  unet["attentionResolutions"] = resolutions(inference, unet["imageSize"].get<int64_t>());
  if (overrides.contains("attentionResolutions") && overrides["attentionResolutions"] != unet["attentionResolutions"])
    throw Error("ERR_CONFIG", "unet.attentionResolutions: expected " + unet["attentionResolutions"].dump() +
                                  ", as the checkpoint shows, got " + overrides["attentionResolutions"].dump());
  return result;
}

}  // namespace ddad
