// Networks from the names and shapes of their parameters.
#include "import/infer.h"

#include <string>

#include "doctest.h"
#include "file_helpers.h"
#include "unet/unet.h"

using namespace ddad;
using ddad::testing::checkError;
using nlohmann::json;

namespace {

json publicUNet() {
  return {{"imageSize", 256},
          {"inChannels", 3},
          {"modelChannels", 256},
          {"outChannels", 6},
          {"numResBlocks", 2},
          {"attentionResolutions", {32, 16, 8}},
          {"channelMult", {1, 1, 2, 2, 4, 4}},
          {"numHeads", 1},
          {"numHeadChannels", 64},
          {"useScaleShiftNorm", true},
          {"resblockUpdown", true},
          {"useNewAttentionOrder", false},
          {"numClasses", 1000}};
}

Shapes shapesOf(const json& unet) {
  Shapes shapes;
  const UNet net = buildUNet(UNetConfig::fromJson(unet));
  for (const ParamSpec& p : net.graph.params()) shapes[p.name] = p.shape;
  return shapes;
}

json with(json unet, const json& change) {
  unet.update(change);
  return unet;
}

}  // namespace

TEST_CASE("the network of the public checkpoint is inferred") {
  const Shapes shapes = shapesOf(publicUNet());
  int64_t values = 0;
  for (const auto& [name, shape] : shapes) {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    values += count;
  }
  CHECK(values == 553'838'086);
  const InferredUNet found = inferUNet(shapes, json::object(), false);
  CHECK(found.unet == publicUNet());
  CHECK(found.assumed == std::vector<std::string>{"numHeadChannels", "useNewAttentionOrder", "imageSize"});
  CHECK(inferUNet(shapes, json::object(), true).unet["numClasses"].is_null());
}

TEST_CASE("other networks are inferred") {
  const json small = with(publicUNet(), {{"modelChannels", 64}, {"numClasses", nullptr}});
  for (const json& change : {
           json({{"resblockUpdown", false}}),
           json({{"useScaleShiftNorm", false}, {"resblockUpdown", false}}),
           json({{"numResBlocks", 3},
                 {"channelMult", {1, 2, 3, 4}},
                 {"attentionResolutions", {32, 8}},
                 {"imageSize", 64}}),
           json({{"channelMult", {1, 2}}, {"attentionResolutions", json::array()}, {"imageSize", 16}}),
           json({{"channelMult", {2}}, {"attentionResolutions", {8}}, {"imageSize", 8}, {"numResBlocks", 4}}),
           json({{"channelMult", {1}}, {"attentionResolutions", json::array()}, {"imageSize", 8}, {"numResBlocks", 1}}),
           json({{"inChannels", 1}, {"outChannels", 2}, {"numClasses", 5}}),
           json({{"modelChannels", 32}, {"numHeadChannels", 32}}),
       }) {
    const json unet = with(small, change);
    CAPTURE(unet.dump());
    CHECK(inferUNet(shapesOf(unet), json::object(), false).unet ==
          with(unet, {{"resblockUpdown",
                       // without a level to go to there is nothing to see
                       unet["channelMult"].size() > 1 && unet["resblockUpdown"].get<bool>()}}));
  }
}

TEST_CASE("what is given wins over what is assumed, and must agree with what is seen") {
  const Shapes shapes = shapesOf(publicUNet());
  const json given = {{"imageSize", 512}, {"numHeads", 4}, {"useNewAttentionOrder", true}};
  const InferredUNet found = inferUNet(shapes, given, false);
  CHECK(found.unet == with(publicUNet(), {{"imageSize", 512},
                                          {"attentionResolutions", {64, 32, 16}},
                                          {"numHeads", 4},
                                          {"numHeadChannels", -1},
                                          {"useNewAttentionOrder", true}}));
  CHECK(found.assumed.empty());
  const auto refused = [&](const json& wrong, const char* what) {
    checkError("ERR_CONFIG", {what}, [&] { inferUNet(shapes, wrong, false); });
  };
  refused({{"imageSize", 200}}, "a multiple of 16");
  refused({{"imageSize", "large"}}, "expected an integer");
  refused({{"numHeads", 3}}, "a divisor of 512");
  refused({{"attentionResolutions", {32, 16}}}, "[32,16,8], as the checkpoint shows, got [32,16]");
}

TEST_CASE("parameters of something else are refused") {
  const auto refused = [](const char* name, const std::vector<int64_t>& shape, const char* what) {
    Shapes shapes = shapesOf(publicUNet());
    shapes[name] = shape;
    checkError("ERR_MODEL_FORMAT", {what}, [&] { inferUNet(shapes, json::object(), false); });
  };
  checkError("ERR_MODEL_FORMAT", {"no tensor \"time_embed.0.weight\""}, [] { inferUNet({}, json::object(), false); });
  refused("time_embed.0.weight", {1000, 256}, "[4 * channels, channels], got [1000, 256]");
  refused("time_embed.0.weight", {0, 0}, "2 dimensions above 0");
  refused("input_blocks.0.0.weight", {256, 4, 3, 3}, "1 or 3 input channels");
  refused("out.2.weight", {3, 256, 3, 3}, "6 output channels (noise, and a learned variance)");
  refused("output_blocks.18.0.in_layers.0.weight", {256}, "as many output blocks as input blocks");
  refused("input_blocks.1.0.out_layers.3.weight", {128, 128, 3, 3}, "a multiple of the model's 256 channels");
}
