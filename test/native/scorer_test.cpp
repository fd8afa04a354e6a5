// Scoring: any size, tiles that blend, the same map every time, refusals that say why.
#include "score/scorer.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "score/image/pixels.h"
#include "score_helpers.h"

using namespace ddad;
using ddad::testing::codeOf;
using ddad::testing::picture;
using ddad::testing::request;
using ddad::testing::smallModel;

namespace {

std::unique_ptr<Scorer> makeScorer(const nlohmann::json& config, int threads = 2) {
  Trainer trainer(openDevice("cpu", threads), config);
  std::vector<float> pixels(static_cast<size_t>(trainer.batchFloats()), 0.3f);
  for (int i = 0; i < 3; ++i) trainer.step(pixels.data(), nullptr, 1e-2, Cancel());
  return trainer.toScorer(config);
}

}  // namespace

TEST_CASE("images of any size have a map of their own size") {
  const auto scorer = makeScorer(smallModel(16, 2));
  for (const auto& [width, height] : {std::pair{1, 1}, {2, 1}, {7, 5}, {16, 16}, {33, 31}, {70, 40}, {100, 3}}) {
    const auto pixels = picture(width, height);
    const ScoreResult r = scorer->score(request(pixels, width, height), Cancel());
    CAPTURE(width);
    CAPTURE(height);
    CHECK(r.width == width);
    CHECK(r.height == height);
    CHECK(static_cast<int>(r.map.size()) == width * height);
    CHECK(std::isfinite(r.score));
    CHECK(r.pixel.mean.size() == 2);
  }
}

TEST_CASE("the same image gives the same map, bit for bit, for any number of threads") {
  const auto pixels = picture(45, 38);
  const auto scorer = makeScorer(smallModel(16, 2), 1), other = makeScorer(smallModel(16, 2), 3);
  const auto first = scorer->score(request(pixels, 45, 38), Cancel());
  const auto small = picture(20, 20);
  scorer->score(request(small, 20, 20), Cancel());  // another image in between
  CHECK(scorer->score(request(pixels, 45, 38), Cancel()).map == first.map);
  CHECK(other->score(request(pixels, 45, 38), Cancel()).map == first.map);
}

TEST_CASE("8-bit, 16-bit and float pixels of the same value score alike") {
  const auto scorer = makeScorer(smallModel(16, 2));
  const auto bytes = picture(16, 12);
  std::vector<uint16_t> words;
  std::vector<float> floats;
  for (uint8_t b : bytes) {
    words.push_back(static_cast<uint16_t>(b * 257));
    floats.push_back(static_cast<float>(b) / 255.0f);
  }
  ScoreRequest r = request(bytes, 16, 12);
  const double expected = scorer->score(r, Cancel()).score;
  r.data = words.data();
  r.type = PixelType::kU16;
  CHECK(scorer->score(r, Cancel()).score == doctest::Approx(expected).epsilon(1e-4));
  r.data = floats.data();
  r.type = PixelType::kF32;
  CHECK(scorer->score(r, Cancel()).score == doctest::Approx(expected).epsilon(1e-4));
  floats[3] = 1.5f;
  CHECK(codeOf([&] { scorer->score(r, Cancel()); }) == "ERR_IMAGE");
}

TEST_CASE("calibration constants shift and scale the map") {
  auto config = smallModel(16, 2);
  const auto scorer = makeScorer(config);
  const auto pixels = picture(16, 16);
  const ScoreResult raw = scorer->score(request(pixels, 16, 16), Cancel());
  config["score"]["normalization"] = "calibration";
  config["calibration"] = {{"pixelMean", raw.pixel.mean}, {"pixelStd", raw.pixel.std}};
  scorer->setConfig(config);
  const ScoreResult normal = scorer->score(request(pixels, 16, 16), Cancel());
  double mean = 0;
  for (float v : normal.map) mean += static_cast<double>(v) / static_cast<double>(normal.map.size());
  CHECK(std::abs(mean) < 1e-4);  // each scale has mean 0 under its own statistics
  CHECK(normal.score != doctest::Approx(raw.score));
}

TEST_CASE("the number and the share of top pixels make the image score") {
  CHECK(meanOfLargest({1, 5, 3, 4}, 2) == doctest::Approx(4.5));
  CHECK(meanOfLargest({1, 5}, 64) == doctest::Approx(3));
}

TEST_CASE("tiles cover the image, overlap, and their weights never vanish") {
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{100, 70}, {32, 33}, {5000, 40}}) {
    std::vector<float> weight(static_cast<size_t>(width * height));
    for (const Tile& t : planTiles(width, height, 32, 8)) {
      CHECK(t.x + t.width <= width);
      CHECK(t.y + t.height <= height);
      const auto wx = blendWeights(t.width, 8, t.x > 0, t.x + t.width < width);
      const auto wy = blendWeights(t.height, 8, t.y > 0, t.y + t.height < height);
      for (int64_t y = 0; y < t.height; ++y)
        for (int64_t x = 0; x < t.width; ++x)
          weight[static_cast<size_t>((t.y + y) * width + t.x + x)] +=
              wx[static_cast<size_t>(x)] * wy[static_cast<size_t>(y)];
    }
    CHECK(*std::min_element(weight.begin(), weight.end()) > 0.0f);
  }
}

TEST_CASE("tiles of one image have one size and are no larger than they must be") {
  const auto only = planTiles(250, 256, 256, 32);
  REQUIRE(only.size() == 1);
  CHECK(only[0].width == 250);
  CHECK(only[0].height == 256);
  for (const int64_t length : {257, 289, 480, 481, 1024, 5000}) {
    const auto tiles = planTiles(length, 100, 256, 32);
    const auto count = static_cast<int64_t>(tiles.size());
    CAPTURE(length);
    CHECK(count == (length - 32 + 223) / 224);
    CHECK(tiles[0].width <= 256);
    CHECK(tiles[0].width <= (length + (count - 1) * 32) / count + 16);
    CHECK(tiles[0].x == 0);
    CHECK(tiles.back().x + tiles.back().width == length);
    for (size_t i = 1; i < tiles.size(); ++i) {
      CHECK(tiles[i].width == tiles[0].width);
      CHECK(tiles[i - 1].x + tiles[i - 1].width - tiles[i].x >= 32);
    }
  }
}

TEST_CASE("where two tiles overlap by the ramp their weights add up to one") {
  const auto left = blendWeights(32, 8, false, true), right = blendWeights(32, 8, true, false);
  for (size_t i = 0; i < 8; ++i) CHECK(left[24 + i] + right[i] == doctest::Approx(1.0f));
}

TEST_CASE("a model survives its file; damage is refused by name") {
  const auto config = smallModel(16, 2);
  const auto scorer = makeScorer(config);
  const auto path = (std::filesystem::temp_directory_path() / ("ddad-scorer-" + std::to_string(getpid()))).string();
  scorer->save(path, config);
  const auto loaded = Scorer::load(openDevice("cpu", 2), path);
  const auto pixels = picture(20, 16);
  CHECK(loaded->score(request(pixels, 20, 16), Cancel()).map == scorer->score(request(pixels, 20, 16), Cancel()).map);
  CHECK(loaded->config() == config);
  auto other = config;
  other["unet"]["numResBlocks"] = 2;
  CHECK(codeOf([&] { loaded->setConfig(other); }) == "ERR_CONFIG");
  scorer->save(path, other);  // weights of one network under the description of another
  CHECK(codeOf([&] { Scorer::load(openDevice("cpu", 2), path); }) == "ERR_MODEL_FORMAT");
  std::filesystem::remove(path);
}

TEST_CASE("images that do not fit and cancelled calls are refused") {
  const auto scorer = makeScorer(smallModel(16, 2));
  const auto pixels = picture(8, 8, 3);
  CHECK(codeOf([&] { scorer->score(request(pixels, 8, 8, 3), Cancel()); }) == "ERR_IMAGE");
  CHECK(codeOf([&] { scorer->score(request(pixels, 0, 8), Cancel()); }) == "ERR_IMAGE");
  Cancel cancel;
  cancel.request();
  CHECK(codeOf([&] { scorer->score(request(pixels, 8, 8), cancel); }) == "ERR_ABORTED");
}
