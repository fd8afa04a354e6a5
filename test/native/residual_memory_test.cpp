// The distance to known residuals: against a plain search, and through a model and its file.
#include "score/evidence/residual_memory.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "file_helpers.h"
#include "random_values.h"
#include "score_helpers.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

double squaredDistance(const float* a, const float* b, int64_t channels) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const double d = static_cast<double>(a[c]) - static_cast<double>(b[c]);
    sum += d * d;
  }
  return sum;
}

std::vector<float> distances(const ResidualMemory& memory, const std::vector<float>& residuals, int threads) {
  const auto n = static_cast<int64_t>(residuals.size()) / memory.channels();
  std::vector<float> found(static_cast<size_t>(n));
  memory.nearest(*openDevice("cpu", threads), residuals.data(), n, found.data(), Cancel());
  return found;
}

}  // namespace

TEST_CASE("the nearest residual is that of a plain search, for any number of threads") {
  uint32_t seed = 1;
  for (const int64_t count : {1, 255, 256, 257, 700})
    for (const auto& [n, channels] : {std::pair<int64_t, int64_t>{1, 8}, {97, 24}, {300, 152}}) {
      const auto rows = randomValues(count * channels, ++seed), residuals = randomValues(n * channels, ++seed);
      const ResidualMemory memory(rows.data(), count, channels);
      const auto found = distances(memory, residuals, 1);
      CHECK(distances(memory, residuals, 2) == found);
      CHECK(distances(memory, residuals, 3) == found);
      double worst = 0;
      for (int64_t i = 0; i < n; ++i) {
        double best = std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j < count; ++j)
          best = std::min(best, squaredDistance(&residuals[static_cast<size_t>(i * channels)],
                                                &rows[static_cast<size_t>(j * channels)], channels));
        const auto d = static_cast<double>(found[static_cast<size_t>(i)]);
        const double error = std::abs(d * d - best);
        if (!(error <= worst)) worst = error;
      }
      // |a|^2 + |b|^2 - 2ab in float32: each is about `channels`, summed over as many terms
      CAPTURE(count);
      CAPTURE(channels);
      CHECK(worst <= 2e-6 * static_cast<double>(channels));
    }
}

TEST_CASE("a residual that the memory holds has distance zero; what is not a number stays so") {
  const auto rows = randomValues(300 * 24, 7);
  const ResidualMemory memory(rows.data(), 300, 24);
  for (const float d : distances(memory, rows, 2)) CHECK(d <= 0.01f);  // the root of 1e-4, see above
  std::vector<float> broken(rows.begin(), rows.begin() + 24);
  broken[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(distances(memory, broken, 1)[0]));
  Cancel cancel;
  cancel.request();
  float out[300];
  CHECK(codeOf([&] { memory.nearest(*openDevice("cpu", 2), rows.data(), 300, out, cancel); }) == "ERR_ABORTED");
}

TEST_CASE("residuals are averaged over scales and 3x3 cells, zero beyond the border") {
  constexpr int64_t kScales = 3, kHeight = 5, kWidth = 4, kChannels = 6, kCell = kHeight * kWidth * kChannels;
  const auto predicted = randomValues(kScales * kCell, 11), target = randomValues(kCell, 12);
  std::vector<float> scratch(kCell), out(kCell);
  pooledResiduals(*openDevice("cpu", 2), predicted.data(), target.data(), kScales, kHeight, kWidth, kChannels,
                  scratch.data(), out.data());
  for (int64_t y = 0; y < kHeight; ++y)
    for (int64_t x = 0; x < kWidth; ++x)
      for (int64_t c = 0; c < kChannels; ++c) {
        double expected = 0;
        for (int64_t v = y - 1; v <= y + 1; ++v)
          for (int64_t u = x - 1; u <= x + 1; ++u) {
            if (v < 0 || v >= kHeight || u < 0 || u >= kWidth) continue;
            const auto at = static_cast<size_t>((v * kWidth + u) * kChannels + c);
            for (size_t s = 0; s < kScales; ++s)
              expected += static_cast<double>(predicted[s * kCell + at]) / (9.0 * kScales);
            expected -= static_cast<double>(target[at]) / 9.0;
          }
        const auto found = static_cast<double>(out[static_cast<size_t>((y * kWidth + x) * kChannels + c)]);
        CHECK(std::abs(found - expected) <= 1e-6);
      }
}

TEST_CASE("a model with a memory mixes the distance into its feature-level score, also from its file") {
  auto config = featureModel(16, 2);
  auto scorer = featureScorer(config);
  const auto image = picture(45, 37);
  ScoreRequest asked = request(image, 45, 37);
  asked.residuals = true;
  const ScoreResult raw = scorer->score(asked, Cancel());
  CHECK(raw.memory.elements == 0);
  REQUIRE(raw.residuals.size() % 80 == 0);
  const auto cells = static_cast<int64_t>(raw.residuals.size()) / 80;
  CHECK(cells >= 12 * 10);  // cells of 4 pixels; those where tiles overlap count twice
  asked.residuals = false;
  CHECK(scorer->score(asked, Cancel()).residuals.empty());

  CHECK(codeOf([&] { scorer->setMemory(0, raw.residuals, cells + 1); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { scorer->setMemory(1, raw.residuals, cells); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { scorer->setMemory(0, {}, 0); }) == "ERR_ARGUMENT");

  config["score"]["normalization"] = "calibration";
  config["score"]["alpha"] = 0;
  config["calibration"] = {{"pixelMean", raw.pixel.mean},
                           {"pixelStd", raw.pixel.std},
                           {"featureMean", raw.feature.mean},
                           {"featureStd", raw.feature.std}};
  scorer->setConfig(config);
  const ScoreResult without = scorer->score(asked, Cancel());
  config["score"]["memory"] = {{"patches", cells}, {"weight", 0.75}};
  CHECK(codeOf([&] { scorer->setConfig(config); }) == "ERR_CONFIG");  // no statistics of the distance
  config["calibration"]["memoryMean"] = 2.0;
  config["calibration"]["memoryStd"] = 0.5;
  scorer->setConfig(config);
  CHECK(codeOf([&] { scorer->score(asked, Cancel()); }) == "ERR_CONFIG");  // nothing remembered yet
  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  scorer->save(path, config);
  CHECK(codeOf([&] { Scorer::load(openDevice("cpu", 2), path); }) == "ERR_MODEL_FORMAT");

  scorer->setMemory(0, raw.residuals, cells);  // its own: each is at distance zero
  const ScoreResult with = scorer->score(asked, Cancel());
  CHECK(with.memory.elements == cells);
  CHECK(with.memory.mean[0] <= 0.02);
  double worst = 0;
  for (size_t i = 0; i < with.map.size(); ++i) {
    const double expected = 0.25 * static_cast<double>(without.map[i]) + 0.75 * (0.0 - 2.0) / 0.5;
    const double error = std::abs(static_cast<double>(with.map[i]) - expected);
    if (!(error <= worst)) worst = error;
  }
  CHECK(worst <= 0.1);  // distances up to 0.02, over 0.5
  CHECK(with.map == with.featureMap);

  scorer->save(path, config);
  const auto loaded = Scorer::load(openDevice("cpu", 2), path);
  CHECK(loaded->score(asked, Cancel()).map == with.map);
  CHECK(loaded->memory()["residualMemory"].get<int64_t>() >= cells * 80 * 4);
}
