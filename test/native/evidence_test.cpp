// Evidence beside the ensemble: rows that cover the others, the Gaussian of whole images, features of a tile, the
// score.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "file_helpers.h"
#include "random_values.h"
#include "score/evidence/feature_evidence.h"
#include "score_helpers.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

double distanceBetween(const float* a, const float* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += d * d;
  }
  return std::sqrt(sum);
}

/// The largest distance of a row to the nearest of those chosen.
double radius(const std::vector<float>& rows, int64_t size, const std::vector<int64_t>& chosen) {
  double largest = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(rows.size()) / size; ++i) {
    double nearest = std::numeric_limits<double>::infinity();
    for (const int64_t c : chosen)
      nearest = std::min(
          nearest, distanceBetween(&rows[static_cast<size_t>(i * size)], &rows[static_cast<size_t>(c * size)], size));
    largest = std::max(largest, nearest);
  }
  return largest;
}

nlohmann::json evidenceModel() {
  auto config = featureModel(16, 2);
  config["features"]["depth"] = 16;
  config["score"]["evidence"] = {{"banks", {{4, 8}, {8, 16}}}, {"rows", 40}, {"image", true}};
  return config;
}

}  // namespace

TEST_CASE("rows that are kept cover the others, rare ones too, for any number of threads") {
  constexpr int64_t kCount = 3000, kSize = 24, kKeep = 60;
  auto rows = randomValues(kCount * kSize, 3);
  for (int64_t i = 0; i < 5; ++i)
    rows[static_cast<size_t>((100 + 400 * i) * kSize + i)] += 40;  // five that stand alone
  const auto chosen = coverage(*openDevice("cpu", 1), rows.data(), kCount, kSize, kKeep, Cancel());
  CHECK(coverage(*openDevice("cpu", 3), rows.data(), kCount, kSize, kKeep, Cancel()) == chosen);
  CHECK(chosen.size() == kKeep);
  CHECK(std::is_sorted(chosen.begin(), chosen.end()));
  CHECK(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());
  for (int64_t i = 0; i < 5; ++i) CHECK(std::binary_search(chosen.begin(), chosen.end(), 100 + 400 * i));
  std::vector<int64_t> first(kKeep);
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i);
  CHECK(radius(rows, kSize, chosen) < 0.5 * radius(rows, kSize, first));
  // all where there are fewer, and equal rows once
  CHECK(coverage(*openDevice("cpu", 1), rows.data(), 10, kSize, kKeep, Cancel()).size() == 10);
  const std::vector<float> same(static_cast<size_t>(100 * kSize), 1.0f);
  CHECK(coverage(*openDevice("cpu", 1), same.data(), 100, kSize, 5, Cancel()).size() == 1);
  Cancel cancel;
  cancel.request();
  CHECK(codeOf([&] { coverage(*openDevice("cpu", 1), rows.data(), kCount, kSize, kKeep, cancel); }) == "ERR_ABORTED");
}

TEST_CASE("the Gaussian of whole images is that of its rows where there are many, and holds where there are few") {
  constexpr int64_t kSize = 6, kCount = 4000;
  auto rows = randomValues(kCount * kSize, 5);
  for (int64_t r = 0; r < kCount; ++r) {  // two values that go together, scales and offsets of their own
    float* row = &rows[static_cast<size_t>(r * kSize)];
    row[1] = row[0] + 0.3f * row[1];
    for (int64_t i = 0; i < kSize; ++i) row[i] = 3.0f * static_cast<float>(i) + static_cast<float>(1 + i) * row[i];
  }
  const WholeGaussian gaussian = WholeGaussian::fit(rows.data(), kCount, kSize, Cancel());
  std::vector<float> at(gaussian.mean);
  CHECK(gaussian.distance(at) <= 1e-4);
  at[4] += 5.0f;  // a deviation of an independent value, times the scale that randomValues has
  const double alone = gaussian.distance(at);
  CHECK(alone == doctest::Approx(5.0 / static_cast<double>(gaussian.std[4])).epsilon(0.05));
  // along what goes together a step is nearer than across it
  std::vector<float> along(gaussian.mean), across(gaussian.mean);
  along[0] += gaussian.std[0];
  along[1] += gaussian.std[1];
  across[0] += gaussian.std[0];
  across[1] -= gaussian.std[1];
  CHECK(gaussian.distance(along) < 1.1);
  CHECK(gaussian.distance(across) > 5.0);
  // the mean of squared distances of its own rows is their number of values
  double squares = 0;
  for (int64_t r = 0; r < kCount; ++r) {
    const std::vector<float> row(&rows[static_cast<size_t>(r * kSize)], &rows[static_cast<size_t>(r * kSize)] + kSize);
    const double d = gaussian.distance(row);
    squares += d * d / kCount;
  }
  CHECK(squares == doctest::Approx(kSize).epsilon(0.05));
  Cancel cancel;
  cancel.request();
  CHECK(codeOf([&] { WholeGaussian::fit(rows.data(), kCount, kSize, cancel); }) == "ERR_ABORTED");
  for (const int64_t few : {1, 2, 5}) {
    const WholeGaussian shrunk = WholeGaussian::fit(rows.data(), few, kSize, Cancel());
    std::vector<float> far(shrunk.mean);
    for (float& v : far) v += 100.0f;
    CHECK(std::isfinite(shrunk.distance(far)));
    CHECK(shrunk.distance(far) > shrunk.distance(shrunk.mean));
  }
}

TEST_CASE("the score of the evidence is near the largest value and gains from others") {
  EvidenceConfig config;
  config.mean = {1, 2, 3};
  config.std = {2, 1, 0.5};
  CHECK(combineEvidence(config, {1, 2, 3}) == doctest::Approx(0.0));
  CHECK(combineEvidence(config, {1, 12, 3}) == doctest::Approx(10.0 + 2 * std::log((1 + 2 * std::exp(-5.0)) / 3)));
  CHECK(combineEvidence(config, {21, 12, 8}) == doctest::Approx(10.0));
  CHECK(combineEvidence(config, {1, 2002, 3}) == doctest::Approx(2000.0 - 2 * std::log(3.0)));
  config.placeStride = 16;
  CHECK(combineEvidence(config, {1, 2, 13}) == doctest::Approx(20.0 + 2 * std::log((5 + 2 * std::exp(-10.0)) / 7)));
  CHECK(std::isnan(combineEvidence(config, {1, std::numeric_limits<double>::quiet_NaN(), 3})));
}

TEST_CASE("places have Gaussians, from few images too, and a model keeps them") {
  auto config = evidenceModel();
  config["score"]["evidence"]["placeStride"] = 16;
  auto scorer = featureScorer(config);
  const auto features = [&](uint32_t seed) {
    auto image = picture(32, 32);
    std::mt19937 random(seed);
    for (uint8_t& v : image)
      v = static_cast<uint8_t>(std::clamp(int{v} + static_cast<int>(random() % 41) - 20, 0, 255));
    return image;
  };
  const auto look = [&](Scorer& by, const std::vector<uint8_t>& image, bool wanted) {
    ScoreRequest asked = request(image, 32, 32);
    asked.features = wanted;
    return by.score(asked, Cancel());
  };
  constexpr int64_t kChannels = 112;
  std::vector<std::vector<float>> seen;
  ScoreResult raw;
  for (uint32_t i = 0; i < 12; ++i) {
    raw = look(*scorer, features(i), true);
    seen.push_back(raw.evidencePlaces);
  }
  REQUIRE(seen[0].size() % kChannels == 0);
  const size_t places = seen[0].size() / kChannels;

  CHECK(codeOf([&] { scorer->setEvidence(0, raw.evidenceRows, raw.evidenceStatistics, 40, Cancel()); }) ==
        "ERR_NUMERIC");
  CHECK(codeOf([&] { scorer->observePlaces({1, 2, 3}, true); }) == "ERR_ARGUMENT");
  auto broken = seen[0];
  broken[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(codeOf([&] { scorer->observePlaces(broken, true); }) == "ERR_NUMERIC");
  scorer->observePlaces(seen[3], true);  // is forgotten: the next begins anew
  for (size_t i = 0; i < seen.size(); ++i) scorer->observePlaces(seen[i], i == 0);
  scorer->setEvidence(0, raw.evidenceRows, raw.evidenceStatistics, 40, Cancel());

  // the reference: by elimination in float64, of the covariance over the channels' variances plus a hundredth
  const auto n = static_cast<double>(seen.size());
  const auto value = [&](size_t image, size_t p, size_t c) {
    return static_cast<double>(seen[image][p * kChannels + c]);
  };
  std::vector<double> mean(places * kChannels, 0.0), variance(kChannels, 0.0);
  for (size_t i = 0; i < mean.size(); ++i)
    for (const auto& image : seen) mean[i] += static_cast<double>(image[i]) / n;
  for (size_t c = 0; c < kChannels; ++c) {
    double sum = 0, squares = 0, within = 0;
    for (size_t p = 0; p < places; ++p) {
      const double m = mean[p * kChannels + c];
      sum += m / static_cast<double>(places);
      squares += m * m / static_cast<double>(places);
      for (size_t i = 0; i < seen.size(); ++i)
        within += (value(i, p, c) - m) * (value(i, p, c) - m) / (n - 1) / static_cast<double>(places);
    }
    variance[c] = within + squares - sum * sum;
  }
  const ScoreResult tested = look(*scorer, features(99), true);
  double largest = 0;
  for (size_t p = 0; p < places; ++p) {
    std::vector<double> a(kChannels * kChannels), d(kChannels), x(kChannels);
    double spread = 0;
    for (size_t i = 0; i < kChannels; ++i)
      for (size_t j = 0; j < kChannels; ++j) {
        for (size_t k = 0; k < seen.size(); ++k)
          a[i * kChannels + j] +=
              (value(k, p, i) - mean[p * kChannels + i]) * (value(k, p, j) - mean[p * kChannels + j]) / (n - 1);
        if (i == j) spread += a[i * kChannels + i] / variance[i] / kChannels;
      }
    for (size_t i = 0; i < kChannels; ++i) {
      a[i * kChannels + i] += 0.01 * spread * variance[i];
      x[i] = d[i] = static_cast<double>(tested.evidencePlaces[p * kChannels + i]) - mean[p * kChannels + i];
    }
    for (size_t k = 0; k < kChannels; ++k)
      for (size_t i = k + 1; i < kChannels; ++i) {
        const double factor = a[i * kChannels + k] / a[k * kChannels + k];
        for (size_t j = k; j < kChannels; ++j) a[i * kChannels + j] -= factor * a[k * kChannels + j];
        x[i] -= factor * x[k];
      }
    for (size_t i = kChannels; i-- > 0;) {
      for (size_t j = i + 1; j < kChannels; ++j) x[i] -= a[i * kChannels + j] * x[j];
      x[i] /= a[i * kChannels + i];
    }
    double squared = 0;
    for (size_t i = 0; i < kChannels; ++i) squared += d[i] * x[i];
    largest = std::max(largest, std::sqrt(squared));
  }
  REQUIRE(tested.evidence.size() == 5);  // ensemble, local, regional, global, place
  CHECK(std::abs(std::exp(tested.evidence[4]) - largest) <= 1e-3 * largest);  // precisions are floats of condition 1e4
  CHECK(tested.banks.size() == 3);
  const auto large = picture(48, 48);
  CHECK(codeOf([&] { scorer->score(request(large, 48, 48), Cancel()); }) == "ERR_IMAGE");  // of more than one tile

  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  scorer->save(path, config);
  CHECK(SafetensorsFile::open(path).metadata().at("formatVersion") == "3");
  const auto loaded = Scorer::load(openDevice("cpu", 2), path);
  CHECK(look(*loaded, features(99), false).evidence == tested.evidence);

  config["calibration"] = {{"pixelMean", raw.pixel.mean},
                           {"pixelStd", raw.pixel.std},
                           {"featureMean", raw.feature.mean},
                           {"featureStd", raw.feature.std},
                           {"evidence", {{"mapMean", {0.5, 0.25}}, {"mapStd", {2.0, 1.0}}}}};
  CHECK(codeOf([&] { scorer->setConfig(config); }) == "ERR_CONFIG");  // none of the places' map
  config["calibration"]["evidence"]["places"] = false;
  scorer->setConfig(config);
  CHECK(look(*scorer, features(99), false).evidence.size() == 4);
  scorer->save(path, config);
  CHECK(!SafetensorsFile::open(path).find("evidence.0.place_mean"));
  for (const nlohmann::json& stride :
       {nlohmann::json(2), nlohmann::json(32), nlohmann::json(12), nlohmann::json("16")}) {
    auto wrong = config;
    wrong["score"]["evidence"]["placeStride"] = stride;
    CHECK(codeOf([&] { scorer->setConfig(wrong); }) == "ERR_CONFIG");
  }
  auto texture = config;
  texture["score"]["evidence"]["image"] = false;
  CHECK(codeOf([&] { scorer->setConfig(texture); }) == "ERR_CONFIG");
  CHECK(codeOf([&] { featureScorer(evidenceModel())->observePlaces(seen[0], true); }) == "ERR_CONFIG");
}

TEST_CASE("a model with evidence judges by it, also from its file, and refuses what does not fit") {
  auto config = evidenceModel();
  auto scorer = featureScorer(config);
  const auto image = picture(45, 37);
  ScoreRequest asked = request(image, 45, 37);
  asked.features = true;
  const ScoreResult raw = scorer->score(asked, Cancel());
  REQUIRE(raw.evidenceChannels == 24 + 40 + 112);
  CHECK(raw.evidence.empty());
  CHECK(raw.banks.empty());
  REQUIRE(raw.evidenceRows.size() % static_cast<size_t>(raw.evidenceChannels) == 0);
  CHECK(raw.evidenceStatistics.size() % static_cast<size_t>(2 * raw.evidenceChannels) == 0);
  ScoreRequest alone = asked;
  alone.featuresOnly = true;
  const ScoreResult looked = scorer->score(alone, Cancel());
  CHECK(looked.evidenceRows == raw.evidenceRows);
  CHECK(looked.evidenceStatistics == raw.evidenceStatistics);
  CHECK(looked.map.empty());
  alone.features = false;
  CHECK(codeOf([&] { scorer->score(alone, Cancel()); }) == "ERR_ARGUMENT");
  asked.features = false;
  CHECK(scorer->score(asked, Cancel()).evidenceRows.empty());

  const std::vector<float> uneven(raw.evidenceRows.begin(), raw.evidenceRows.end() - 1);
  CHECK(codeOf([&] { scorer->setEvidence(0, uneven, raw.evidenceStatistics, 40, Cancel()); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { scorer->setEvidence(0, raw.evidenceRows, {}, 40, Cancel()); }) == "ERR_ARGUMENT");
  auto broken = raw.evidenceRows;
  broken[7] = std::numeric_limits<float>::infinity();
  CHECK(codeOf([&] { scorer->setEvidence(0, broken, raw.evidenceStatistics, 40, Cancel()); }) == "ERR_NUMERIC");

  CHECK(codeOf([&] { scorer->setEvidence(7, raw.evidenceRows, raw.evidenceStatistics, 40, Cancel()); }) ==
        "ERR_ARGUMENT");
  scorer->setEvidence(0, raw.evidenceRows, raw.evidenceStatistics, 100000, Cancel());
  const ScoreResult own = scorer->score(asked, Cancel());
  REQUIRE(own.banks.size() == 2);
  for (const auto& bank : own.banks) CHECK(bank.mean[0] <= 0.05);  // every patch is in the banks, but for rounding
  REQUIRE(own.evidence.size() == 4);                               // ensemble, local, regional, global
  const auto other = picture(50, 40);
  std::vector<uint8_t> bright(other);
  for (size_t i = 0; i < bright.size(); ++i) bright[i] = static_cast<uint8_t>(255 - bright[i] / 3);
  const ScoreResult different = scorer->score(request(bright, 50, 40), Cancel());
  for (size_t bank = 0; bank < 2; ++bank) CHECK(different.banks[bank].mean[0] > 20 * own.banks[bank].mean[0]);
  for (size_t i = 1; i < 4; ++i) CHECK(different.evidence[i] > own.evidence[i]);

  config["calibration"] = {{"pixelMean", raw.pixel.mean},
                           {"pixelStd", raw.pixel.std},
                           {"featureMean", raw.feature.mean},
                           {"featureStd", raw.feature.std},
                           {"evidence", {{"mapMean", {0.5, 0.25}}, {"mapStd", {2.0, 1.0}}}}};
  config["score"]["normalization"] = "calibration";
  scorer->setConfig(config);
  const ScoreResult mapped = scorer->score(asked, Cancel());
  CHECK(mapped.score == mapped.evidence[0]);  // before its values are calibrated the ensemble judges
  auto without = config;
  without["score"]["evidence"] = nullptr;
  scorer->setConfig(without);
  const ScoreResult ensemble = scorer->score(asked, Cancel());
  CHECK(ensemble.score == mapped.score);
  double worst = 0;  // 0.4 of the map is the mean of both banks, whose distances are 0 here
  for (size_t i = 0; i < ensemble.map.size(); ++i) {
    const double expected = 0.6 * static_cast<double>(ensemble.map[i]) - 0.4 * 0.25;
    const double error = std::abs(static_cast<double>(mapped.map[i]) - expected);
    if (!(error <= worst)) worst = error;
  }
  CHECK(worst <= 0.05);

  config["calibration"]["evidence"]["mean"] = own.evidence;
  CHECK(codeOf([&] { scorer->setConfig(config); }) == "ERR_CONFIG");  // no deviations
  config["calibration"]["evidence"]["std"] = {1.0, 1.0, 1.0, 0.0};
  CHECK(codeOf([&] { scorer->setConfig(config); }) == "ERR_CONFIG");
  config["calibration"]["evidence"]["std"] = {1.0, 1.0, 1.0, 1.0};
  scorer->setConfig(config);
  const ScoreResult judged = scorer->score(asked, Cancel());
  std::vector<double> z = {judged.evidence[0] - own.evidence[0], 0, 0, 0};
  CHECK(judged.score == doctest::Approx(2 * std::log((std::exp(z[0] / 2) + 3) / 4)).epsilon(1e-3));

  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  scorer->save(path, config);
  const auto loaded = Scorer::load(openDevice("cpu", 2), path);
  const ScoreResult again = loaded->score(asked, Cancel());
  CHECK(again.score == judged.score);
  CHECK(again.map == judged.map);
  CHECK(loaded->memory()["evidence"].get<int64_t>() > 0);

  auto fresh = featureScorer(evidenceModel());
  fresh->setConfig(config);
  CHECK(codeOf([&] { fresh->score(asked, Cancel()); }) == "ERR_CONFIG");  // calibrated, but nothing fitted
  for (const nlohmann::json& banks :
       {nlohmann::json::array(), nlohmann::json{{3}}, nlohmann::json{{8, 32}}, nlohmann::json{{16, 32}},
        nlohmann::json{{8, 16}, {4, 8, 16}}, nlohmann::json(1)}) {
    auto wrong = evidenceModel();
    wrong["score"]["evidence"]["banks"] = banks;
    CAPTURE(banks.dump());
    CHECK(codeOf([&] { featureScorer(wrong); }) == "ERR_CONFIG");
  }
}
