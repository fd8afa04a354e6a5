// Batches: the results that each image has alone, whatever the batch, the lanes and the products.
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "score_helpers.h"

using namespace ddad;
using ddad::testing::codeOf;
using ddad::testing::featureModel;
using ddad::testing::featureScorer;
using ddad::testing::picture;
using ddad::testing::request;
using ddad::testing::smallModel;

namespace {

struct Size {
  int width, height;
};

/// Images of these sizes, all different.
std::vector<std::vector<uint8_t>> pictures(const std::vector<Size>& sizes, int channels) {
  std::vector<std::vector<uint8_t>> images;
  for (const Size& size : sizes) {
    images.push_back(picture(size.width, size.height, channels));
    const auto shift = static_cast<uint8_t>(17 * images.size());
    for (uint8_t& pixel : images.back()) pixel = static_cast<uint8_t>(pixel + shift);
  }
  return images;
}

std::string failureOf(const ScoreJob& job) {
  return job.error ? codeOf([&] { std::rethrow_exception(job.error); }) : "";
}

void checkSame(const ScoreResult& a, const ScoreResult& b) {
  CHECK(a.score == b.score);
  CHECK(a.map == b.map);
  CHECK(a.pixelMap == b.pixelMap);
  CHECK(a.featureMap == b.featureMap);
  CHECK(a.pixel.mean == b.pixel.mean);
  CHECK(a.pixel.std == b.pixel.std);
  CHECK(a.residuals == b.residuals);
}

}  // namespace

TEST_CASE("a batch has the results that its images have alone, bit for bit") {
  const auto scorer = featureScorer(featureModel(16, 2));
  // more sizes than compiled ones are kept, and two that need several tiles
  const std::vector<Size> sizes = {{32, 32}, {20, 12}, {32, 32}, {70, 40}, {9, 30},
                                   {17, 17}, {32, 8},  {33, 32}, {1, 1}};
  const auto images = pictures(sizes, 1);
  std::vector<ScoreResult> alone;
  std::vector<ScoreJob> jobs(sizes.size());
  const Cancel cancel;
  for (size_t i = 0; i < sizes.size(); ++i) {
    jobs[i].request = request(images[i], sizes[i].width, sizes[i].height);
    jobs[i].request.residuals = i % 2 == 0;
    jobs[i].cancel = &cancel;
    alone.push_back(scorer->score(jobs[i].request, cancel));
  }
  for (const size_t count : {sizes.size(), size_t{1}, size_t{2}, size_t{3}, sizes.size()}) {
    CAPTURE(count);
    scorer->scoreBatch(jobs.data(), count);
    for (size_t i = 0; i < count; ++i) {
      CAPTURE(i);
      REQUIRE(failureOf(jobs[i]) == "");
      checkSame(jobs[i].result, alone[i]);
      jobs[i].result = ScoreResult();
    }
  }
  scorer->scoreBatch(jobs.data(), 0);
}

TEST_CASE("an error or a cancellation in a batch concerns its own image") {
  const auto scorer = featureScorer(featureModel(16, 2));
  const auto images = pictures({{32, 32}, {32, 32}, {32, 32}, {32, 32}, {40, 40}}, 1);
  Cancel go, stop;
  stop.request();
  std::vector<ScoreJob> jobs(5);
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].request = i == 4 ? request(images[i], 40, 40) : request(images[i], 32, 32);
    jobs[i].cancel = i == 2 ? &stop : &go;
  }
  jobs[1].request.channels = 3;
  const ScoreResult alone = scorer->score(jobs[3].request, go);
  scorer->scoreBatch(jobs.data(), jobs.size());
  CHECK(failureOf(jobs[0]) == "");
  CHECK(failureOf(jobs[1]) == "ERR_IMAGE");
  CHECK(failureOf(jobs[2]) == "ERR_ABORTED");
  CHECK(failureOf(jobs[3]) == "");
  CHECK(failureOf(jobs[4]) == "");
  checkSame(jobs[3].result, alone);
}

TEST_CASE("a configuration that changes between batches holds on every lane") {
  auto config = featureModel(16, 2);
  const auto scorer = featureScorer(config);
  const auto images = pictures({{32, 32}, {32, 32}}, 1);
  const Cancel cancel;
  std::vector<ScoreJob> jobs(2);
  for (size_t i = 0; i < 2; ++i) {
    jobs[i].request = request(images[i], 32, 32);
    jobs[i].cancel = &cancel;
  }
  scorer->scoreBatch(jobs.data(), 2);
  const ScoreResult before = jobs[1].result;
  config["score"]["scales"] = {7};
  config["score"]["smoothing"] = 1;
  scorer->setConfig(config);
  scorer->scoreBatch(jobs.data(), 2);
  CHECK(jobs[1].result.map != before.map);
  checkSame(jobs[1].result, scorer->score(jobs[1].request, cancel));
  CHECK(scorer->memory().at("packedWeights").get<int64_t>() > 0);
}

TEST_CASE("each product is scored with its own calibration, in one batch") {
  auto config = smallModel(16, 2);
  config["unet"]["numClasses"] = 2;
  Trainer trainer(openDevice("cpu", 2), config);
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()), 0.3f);
  const int labels[] = {0, 1};
  for (int i = 0; i < 3; ++i) trainer.step(pixels.data(), labels, 1e-2, Cancel());
  const auto scorer = trainer.toScorer(config);

  const auto calibration = [](double mean) {
    return nlohmann::json{{"pixelMean", {mean, mean}}, {"pixelStd", {0.5, 0.5}}};
  };
  config["score"]["normalization"] = "calibration";
  auto unified = config;
  unified["products"] = {"cable", "nut"};
  unified["perProduct"] = {{"cable", {{"calibration", calibration(1)}}}, {"nut", {{"calibration", calibration(3)}}}};
  const auto images = pictures({{16, 16}, {16, 16}, {16, 16}}, 1);
  const Cancel cancel;
  std::vector<ScoreJob> jobs(3);
  for (size_t i = 0; i < 3; ++i) {
    jobs[i].request = request(images[i], 16, 16);
    jobs[i].request.label = static_cast<int>(i % 2);
    jobs[i].cancel = &cancel;
  }
  scorer->setConfig(unified);
  scorer->scoreBatch(jobs.data(), 3);
  for (size_t i = 0; i < 3; ++i) {
    REQUIRE(failureOf(jobs[i]) == "");
    config["calibration"] = calibration(i % 2 == 0 ? 1 : 3);
    scorer->setConfig(config);
    checkSame(jobs[i].result, scorer->score(jobs[i].request, cancel));
  }

  unified["perProduct"].erase("nut");
  CHECK(codeOf([&] { scorer->setConfig(unified); }) == "ERR_CONFIG");
  unified["products"] = {"cable"};
  CHECK(codeOf([&] { scorer->setConfig(unified); }) == "ERR_CONFIG");
}
