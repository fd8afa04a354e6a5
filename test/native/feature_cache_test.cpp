// Features that are kept between passes over the images.
#include "train/feature_cache.h"

#include <cmath>
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "random_values.h"
#include "small_model.h"
#include "train/trainer.h"

using namespace ddad;
using ddad::testing::featureModel;
using ddad::testing::packagedBackbone;
using ddad::testing::randomValues;

TEST_CASE("features of images that come again are computed once, and are the same") {
  auto again = featureModel(16, 2);
  again["input"]["mode"] = "resize";
  auto turned = again;
  turned["training"]["rotation"] = 5;  // the caller turns samples, so none comes again
  Trainer cached(openDevice("cpu", 2), again, packagedBackbone());
  Trainer plain(openDevice("cpu", 2), turned, packagedBackbone());
  const int64_t floats = cached.batchFloats();
  const auto first = randomValues(floats, 21), second = randomValues(floats, 22);
  for (Trainer* trainer : {&cached, &plain}) trainer->observe(first.data(), Cancel());
  const auto bytes = [](const Trainer& trainer) { return trainer.memory()["featureCache"].get<int64_t>(); };
  const int64_t image = 4 * 4 * 80 * 4;
  int64_t expected = 0;
  for (int i = 0; i < 4; ++i)
    for (const auto* pixels : {&first, &second}) {
      const StepResult a = cached.step(pixels->data(), nullptr, 1e-3, Cancel());
      const StepResult b = plain.step(pixels->data(), nullptr, 1e-3, Cancel());
      CHECK(a.feature == b.feature);
      CHECK(a.loss == b.loss);
      if (i == 0) expected += 2 * image;
      CHECK(bytes(cached) == expected);
    }
  CHECK(bytes(plain) == 0);
}

TEST_CASE("a full cache keeps what it has; every pixel counts") {
  FeatureCache cache(3, 2 * 3 * 4);
  std::vector<float> pixels = {1, 2, 3, 4, 5};
  const auto key = FeatureCache::keyOf(pixels.data(), 5);
  CHECK(FeatureCache::keyOf(pixels.data(), 4) != key);
  std::vector<FeatureCache::Key> keys = {key};
  for (size_t i = 0; i < 5; ++i) {
    std::vector<float> other = pixels;
    other[i] = std::nextafter(other[i], 9.0f);
    keys.push_back(FeatureCache::keyOf(other.data(), 5));
  }
  for (size_t i = 0; i < keys.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      for (size_t half = 0; half < 2; ++half) CHECK(keys[i][half] != keys[j][half]);
  for (size_t i = 0; i < 3; ++i) {
    const auto value = static_cast<float>(i);
    const float features[] = {value, value, value};
    cache.insert(keys[i], features);
  }
  CHECK(cache.bytes() == 24);
  CHECK(cache.find(keys[1])[2] == 1.0f);
  CHECK(cache.find(keys[2]) == nullptr);
  cache.clear();
  CHECK(cache.find(keys[0]) == nullptr);
}
