#include "profile/profile.h"

#include <algorithm>
#include <string>
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "profile/ceiling.h"
#include "small_model.h"
#include "unet/unet.h"

using namespace ddad;
using ddad::testing::codeOf;
using ddad::testing::smallModel;
using nlohmann::json;

namespace {

ProfileOptions fewPasses(int64_t batch, bool training) {
  ProfileOptions options;
  options.batch = batch;
  options.training = training;
  options.repetition = {2, 0};
  return options;
}

int64_t opsOf(const json& profile) {
  int64_t count = 0;
  for (const json& op : profile.at("ops")) count += op.at("count").get<int64_t>();
  return count;
}

const json& opNamed(const json& profile, const std::string& name) {
  const json& ops = profile.at("ops");
  const auto found = std::find_if(ops.begin(), ops.end(), [&](const json& op) { return op.at("name") == name; });
  REQUIRE_MESSAGE(found != ops.end(), name);
  return *found;
}

}  // namespace

TEST_CASE("profile: the machine's limits are positive and of a plausible size") {
  const auto device = openDevice("cpu", 2);
  CeilingProbe probe(*device);
  probe.sample();
  probe.sample();
  REQUIRE(probe.flopsPerSecond().size() == 2);
  REQUIRE(probe.bytesPerSecond().size() == 2);
  for (const double rate : probe.flopsPerSecond()) CHECK((rate > 1e7 && rate < 1e14));
  for (const double rate : probe.bytesPerSecond()) CHECK((rate > 1e7 && rate < 1e13));
}

TEST_CASE("profile: every op of the network is timed once a pass, forward and backward") {
  const auto device = openDevice("cpu", 1);
  const json model = smallModel(16, 2);
  const UNet net = buildUNet(UNetConfig::fromJson(model["unet"]));
  const json forward = profileOps(*device, model, fewPasses(3, false), Cancel());
  CHECK(opsOf(forward) == static_cast<int64_t>(net.graph.ops().size()));
  for (const json& op : forward.at("ops")) {
    CAPTURE(op.dump());
    CHECK(op.at("seconds").size() == 2);
    for (const json& seconds : op.at("seconds")) CHECK(seconds.get<double>() > 0);
    CHECK(op.at("bytes").get<double>() > 0);
  }
  const json backward = profileOps(*device, model, fewPasses(2, true), Cancel());
  // the time steps' waves have nothing to learn
  CHECK(opsOf(backward) == static_cast<int64_t>(net.graph.ops().size()) - 1);
}

TEST_CASE("profile: work is counted by the definition of the op") {
  const auto device = openDevice("cpu", 1);
  const json model = smallModel(16, 2);
  const json forward = profileOps(*device, model, fewPasses(3, false), Cancel());
  const json& first = opNamed(forward, "conv 3x3 1>32 3x16x16");
  const double pixels = 3 * 16 * 16;
  CHECK(first.at("flops").get<double>() == doctest::Approx(2 * pixels * 9 * 32));
  CHECK(first.at("bytes").get<double>() == doctest::Approx(4 * (pixels * (1 + 32) + 9 * 32 + 32)));
  // an inner convolution is done twice on the way back, that of the image once
  const json backward = profileOps(*device, model, fewPasses(3, true), Cancel());
  CHECK(opNamed(backward, "conv 3x3 1>32 3x16x16").at("flops") == first.at("flops"));
  const std::string inner = "conv 3x3 32>32 +skip 3x16x16";
  CHECK(opNamed(backward, inner).at("flops").get<double>() ==
        doctest::Approx(2 * opNamed(forward, inner).at("flops").get<double>()));
}

TEST_CASE("profile: a pass counts all noise scales") {
  const auto device = openDevice("cpu", 1);
  const json model = smallModel(16, 2);
  const json one = profilePass(*device, model, 1, {2, 0}, Cancel());
  const json two = profilePass(*device, model, 2, {3, 0}, Cancel());
  CHECK(one.at("seconds").size() == 2);
  CHECK(two.at("seconds").size() == 3);
  CHECK(two.at("flops").get<double>() == doctest::Approx(2 * one.at("flops").get<double>()));
}

TEST_CASE("profile: what does not fit and what is cancelled has its code") {
  const auto device = openDevice("cpu", 1);
  json model = smallModel(16, 2);
  Cancel cancel;
  cancel.request();
  CHECK(codeOf([&] { profileOps(*device, model, fewPasses(1, false), cancel); }) == "ERR_ABORTED");
  CHECK(codeOf([&] { profilePass(*device, model, 1, {1, 0}, cancel); }) == "ERR_ABORTED");
  CHECK(codeOf([&] { profileCeiling(*device, {1, 0}, cancel); }) == "ERR_ABORTED");
  model["unet"]["modelChannels"] = 0;
  CHECK(codeOf([&] { profileOps(*device, model, fewPasses(1, false), Cancel()); }) == "ERR_CONFIG");
}
