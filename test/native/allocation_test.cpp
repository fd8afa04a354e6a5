// Nothing is allocated in a step: every call of malloc in the process is counted while a training step and a scoring
// pass run. The sanitizers replace malloc themselves, so this runs without them.
#include <atomic>
#include <cstdlib>

#include "device/open_device.h"
#include "doctest.h"
#include "file/safetensors.h"
#include "reverse/gradient_rounds.h"
#include "score/score_pass.h"
#include "small_model.h"
#include "train/trainer.h"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
void note() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  note();
  return __libc_malloc(size);
}
void* calloc(size_t n, size_t size) {
  note();
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t size) {
  note();
  return __libc_realloc(p, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  note();
  return __libc_memalign(alignment, size);
}
}

using namespace ddad;

namespace {

template <class F>
long allocationsOf(F&& f) {
  allocations = 0;
  counting = true;
  f();
  counting = false;
  return allocations;
}

}  // namespace

TEST_CASE("the counter counts") {
  CHECK(allocationsOf([] { AlignedBuffer buffer(100); }) > 0);
}

TEST_CASE("a training step allocates nothing") {
  Trainer trainer(openDevice("cpu", 2), testing::smallModel(16, 2));
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()), 0.25f);
  const Cancel never;
  trainer.step(pixels.data(), nullptr, 1e-4, never);  // starts OpenMP's threads
  CHECK(allocationsOf([&] { trainer.step(pixels.data(), nullptr, 1e-4, never); }) == 0);
}

TEST_CASE("a training step allocates nothing once it has seen the images") {
  auto json = testing::featureModel(16, 2);
  json["input"]["mode"] = "resize";
  Trainer trainer(openDevice("cpu", 2), json, testing::packagedBackbone());
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()), 0.25f);
  const Cancel never;
  trainer.step(pixels.data(), nullptr, 1e-4, never);
  CHECK(trainer.memory()["featureCache"].get<int64_t>() > 0);
  CHECK(allocationsOf([&] { trainer.step(pixels.data(), nullptr, 1e-4, never); }) == 0);
}

TEST_CASE("a training step and a scoring pass with features allocate nothing") {
  const auto json = testing::featureModel(16, 2);
  Trainer trainer(openDevice("cpu", 2), json, testing::packagedBackbone());
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()), 0.25f);
  const Cancel never;
  trainer.observe(pixels.data(), never);
  trainer.step(pixels.data(), nullptr, 1e-4, never);
  CHECK(allocationsOf([&] { trainer.step(pixels.data(), nullptr, 1e-4, never); }) == 0);

  const auto device = openDevice("cpu", 2);
  const ScoreConfig config = ScoreConfig::fromJson(json);
  const UNet net = buildUNet(config.unet);
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  FeatureSource features = openFeatures(SafetensorsFile::open(testing::packagedBackbone()), "", config.features);
  ScorePass pass(*device, net, config, block, &features, 2, 16, 24);
  pass.prepare();
  const uint32_t samples[] = {0, 1};
  pass.run(samples, never);
  CHECK(allocationsOf([&] { pass.run(samples, never); }) == 0);
}

TEST_CASE("a scoring pass allocates nothing") {
  const auto device = openDevice("cpu", 2);
  const ScoreConfig config = ScoreConfig::fromJson(testing::smallModel(16, 1));
  const UNet net = buildUNet(config.unet);
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  ScorePass pass(*device, net, config, block, nullptr, 2, 16, 24);
  pass.prepare();
  const uint32_t samples[] = {0, 1};
  const Cancel never;
  pass.run(samples, never);
  CHECK(allocationsOf([&] { pass.run(samples, never); }) == 0);
}

TEST_CASE("a step of the reverse process and a round of Algorithm 1 allocate nothing") {
  const auto device = openDevice("cpu", 2);
  const auto json = testing::featureModel(16, 1);
  const ScoreConfig config = ScoreConfig::fromJson(json);
  const UNet net = buildUNet(config.unet);
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  FeatureSource features = openFeatures(SafetensorsFile::open(testing::packagedBackbone()), "", config.features);
  ReverseSettings settings;
  settings.schedule = makeSchedule("linear", 1000, "10");
  settings.start = 5;
  ReverseChain chain(*device, net, block, settings, 2, 16, 24);
  FeatureDistance distance(*device, features, {0, 20, 70}, 2, 16, 24, true);
  const auto gaussian = std::make_shared<FeatureGaussian>(GaussianShape{{0, 20, 70}, 4, 6});
  std::fill_n(gaussian->precision.data(), gaussian->precision.size(), 0.25f);
  GradientRounds rounds(*device, chain, distance, gaussian, {1, 0.02, 2}, 2, 16 * 24, 1);
  const uint32_t samples[] = {0, 1};
  const Cancel never;
  chain.startFromNoise(samples);
  chain.step(never);
  rounds.round(never);
  CHECK(allocationsOf([&] { chain.step(never); }) == 0);
  CHECK(allocationsOf([&] { rounds.round(never); }) == 0);
}

#endif
