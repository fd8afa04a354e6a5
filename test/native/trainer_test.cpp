// The training step: it learns, it can be stopped without a trace, and it goes on from a checkpoint bit for bit.
#include "train/trainer.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "device/choices.h"
#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "small_model.h"

using namespace ddad;
using ddad::testing::codeOf;
using ddad::testing::smallModel;

namespace {

struct TempFile {
  std::string path;
  TempFile() {
    static int counter = 0;
    path = (std::filesystem::temp_directory_path() /
            ("ddad-trainer-" + std::to_string(getpid()) + "-" + std::to_string(counter++)))
               .string();
  }
  ~TempFile() { std::filesystem::remove(path); }
};

std::vector<float> stripes(const Trainer& trainer) {
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()));
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = i % 4 < 2 ? 0.8f : -0.8f;
  return pixels;
}

bool sameWeights(const Trainer& a, const Trainer& b) {
  const auto bytes = static_cast<size_t>(a.graph().parameterFloats()) * sizeof(float);
  return std::memcmp(a.weights(), b.weights(), bytes) == 0 &&
         std::memcmp(a.averagedWeights(), b.averagedWeights(), bytes) == 0;
}

}  // namespace

TEST_CASE("training lowers the loss") {
  Trainer trainer(openDevice("cpu", 2), smallModel(16, 4));
  const auto pixels = stripes(trainer);
  double first = 0, last = 0;
  for (int i = 0; i < 60; ++i) {
    const double mse = trainer.step(pixels.data(), nullptr, 2e-3, Cancel()).mse;
    if (i < 10) first += mse;
    if (i >= 50) last += mse;
  }
  CHECK(last < 0.6 * first);
}

TEST_CASE("the weights do not depend on the number of threads") {
  Trainer one(openDevice("cpu", 1), smallModel(16, 2)), three(openDevice("cpu", 3), smallModel(16, 2));
  const auto pixels = stripes(one);
  for (int i = 0; i < 3; ++i) {
    one.step(pixels.data(), nullptr, 1e-3, Cancel());
    three.step(pixels.data(), nullptr, 1e-3, Cancel());
  }
  CHECK(sameWeights(one, three));
}

TEST_CASE("a resumed training ends in the same bytes") {
  const auto config = smallModel(16, 2);
  Trainer whole(openDevice("cpu", 2), config), first(openDevice("cpu", 2), config),
      second(openDevice("cpu", 2), config);
  const auto pixels = stripes(whole);
  for (int i = 0; i < 4; ++i) whole.step(pixels.data(), nullptr, 1e-3, Cancel());
  for (int i = 0; i < 2; ++i) first.step(pixels.data(), nullptr, 1e-3, Cancel());
  const TempFile file;
  first.saveCheckpoint(file.path, config);
  CHECK(second.loadCheckpoint(file.path) == config);
  CHECK(second.stepsDone() == 2);
  for (int i = 0; i < 2; ++i) second.step(pixels.data(), nullptr, 1e-3, Cancel());
  CHECK(sameWeights(whole, second));
}

TEST_CASE("a cancelled step and a step without a finite loss leave no trace") {
  const auto config = smallModel(16, 2);
  Trainer trainer(openDevice("cpu", 2), config), untouched(openDevice("cpu", 2), config);
  auto pixels = stripes(trainer);
  Cancel cancel;
  cancel.request();
  CHECK(codeOf([&] { trainer.step(pixels.data(), nullptr, 1e-3, cancel); }) == "ERR_ABORTED");
  auto broken = pixels;
  broken[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(codeOf([&] { trainer.step(broken.data(), nullptr, 1e-3, Cancel()); }) == "ERR_NUMERIC");
  CHECK(trainer.stepsDone() == 0);
  trainer.step(pixels.data(), nullptr, 1e-3, Cancel());
  untouched.step(pixels.data(), nullptr, 1e-3, Cancel());
  CHECK(sameWeights(trainer, untouched));
}

TEST_CASE("a checkpoint of another network is refused and changes nothing") {
  Trainer gray(openDevice("cpu", 1), smallModel(16, 2)), color(openDevice("cpu", 1), smallModel(16, 2, 3));
  Trainer untouched(openDevice("cpu", 1), smallModel(16, 2, 3));
  const TempFile file;
  gray.saveCheckpoint(file.path, smallModel(16, 2));
  CHECK(codeOf([&] { color.loadCheckpoint(file.path); }) == "ERR_MODEL_FORMAT");
  CHECK(sameWeights(color, untouched));
}

TEST_CASE("labels of a conditional model are checked") {
  auto config = smallModel(16, 2);
  config["unet"]["numClasses"] = 3;
  Trainer trainer(openDevice("cpu", 1), config);
  const auto pixels = stripes(trainer);
  const int32_t good[] = {0, 2}, bad[] = {0, 3};
  CHECK(codeOf([&] { trainer.step(pixels.data(), nullptr, 1e-3, Cancel()); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { trainer.step(pixels.data(), bad, 1e-3, Cancel()); }) == "ERR_ARGUMENT");
  CHECK(std::isfinite(trainer.step(pixels.data(), good, 1e-3, Cancel()).loss));
}

TEST_CASE("the estimate of a trainer's memory is what it takes, and a batch beyond it is refused with the largest") {
  const auto device = openDevice("cpu", 2);
  for (const bool features : {false, true}) {
    nlohmann::json config = features ? testing::featureModel(32, 3) : smallModel(32, 3);
    const std::string backbone = features ? testing::packagedBackbone() : "";
    const nlohmann::json estimate = Trainer::estimateMemory(*device, config, backbone);
    const nlohmann::json taken = Trainer(device, config, backbone).memory();
    int64_t total = 0;
    for (const char* part : {"parameters", "optimizer", "activations", "packedWeights"}) {
      CAPTURE(std::string(part));
      // what is packed depends on the kernels, which the estimate does not measure: other ones where tests may measure
      const double epsilon = std::string(part) == "packedWeights" && Choices::ofThisProcessor().usable() ? 0.5 : 0.01;
      CHECK(estimate[part].get<double>() == doctest::Approx(taken[part].get<double>()).epsilon(epsilon));
      total += estimate[part].get<int64_t>();
    }
    CHECK(estimate["total"] == total);
    const auto largest = estimate["largestBatch"].get<int64_t>();
    CHECK(largest > 3);
    config["training"]["batchSize"] = 4096;
    config["input"]["size"] = 1024;
    try {
      const Trainer trainer(device, config, backbone);
      FAIL_CHECK("more than any machine has was taken");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_MEMORY");
      const std::string message = error.what();
      const bool says = message.find("largest batch that fits is") != std::string::npos ||
                        message.find("not even a batch of 1 fits") != std::string::npos;
      CHECK_MESSAGE(says, message);
    }
  }
}
