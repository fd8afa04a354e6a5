// Reconstructions of a model: what they depend on, and what they refuse.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "score/gaussian_fitter.h"
#include "score/reconstruction.h"
#include "score_helpers.h"

using namespace ddad;
using namespace ddad::testing;
using nlohmann::json;

namespace {

const json kDdpm = {{"method", "ddpm"}, {"respacing", "10"}, {"step", 4}, {"seed", 5}};

json with(json options, const json& changes) {
  options.update(changes);
  return options;
}

std::vector<std::vector<float>> finish(Reconstruction& r) {
  const Cancel never;
  while (r.done() < r.steps()) r.advance(never);
  std::vector<std::vector<float>> images(static_cast<size_t>(r.images()));
  for (int64_t i = 0; i < r.images(); ++i) {
    images[static_cast<size_t>(i)].resize(static_cast<size_t>(r.elements()));
    r.copyImage(i, images[static_cast<size_t>(i)].data());
  }
  return images;
}

double distanceOf(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
  return sum / static_cast<double>(a.size());
}

/// Batches of other sizes cut the convolutions otherwise, so they agree to rounding, which ten steps hardly amplify.
bool nearly(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) { return std::abs(x - y) <= 1e-4f; });
}

/// A scorer with a Gaussian of a few pictures.
std::unique_ptr<Scorer> gaussianScorer(json config, bool pooled) {
  auto scorer = featureScorer(config);
  const auto fitter = scorer->fitGaussian({{"channels", 12}, {"seed", 1}, {"pooled", pooled}});
  for (int n = 0; n < 5; ++n) {
    auto pixels = picture(16, 16);
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(pixels[i] / 2 + 20 * n + i % 5);
    fitter->add(request(pixels, 16, 16), Cancel());
  }
  config["padim"] = scorer->setGaussian(0, *fitter);
  scorer->setConfig(config);
  return scorer;
}

}  // namespace

TEST_CASE("a reconstruction depends on image and seed alone, not on those beside it or the threads") {
  const auto scorer = featureScorer(featureModel(16, 1));
  const auto a = picture(20, 14), b = std::vector<uint8_t>(20 * 14, 90);
  const auto run = [&](const json& options, const std::vector<ScoreRequest>& images) {
    return finish(*scorer->reconstruct(options, images));
  };
  for (const json& options : {kDdpm, with(kDdpm, {{"method", "ddim"}, {"eta", 0.7}})}) {
    const auto both = run(options, {request(a, 20, 14), request(b, 20, 14)});
    CHECK(both[0].size() == 20 * 14);
    CHECK(nearly(both[0], run(options, {request(a, 20, 14)})[0]));
    CHECK(both == run(options, {request(a, 20, 14), request(b, 20, 14)}));
    CHECK(nearly(both[1], run(options, {request(b, 20, 14)})[0]));
    CHECK(!nearly(both[0], run(with(options, {{"seed", 6}}), {request(a, 20, 14)})[0]));
    CHECK(std::ranges::all_of(both[0], [](float v) { return v >= 0.0f && v <= 1.0f; }));
  }
  // an earlier start leaves more of the image
  std::vector<float> original;
  for (uint8_t v : a) original.push_back(static_cast<float>(v) / 255.0f);
  const auto near = run(with(kDdpm, {{"step", 0}}), {request(a, 20, 14)})[0];
  const auto far = run(with(kDdpm, {{"step", 9}}), {request(a, 20, 14)})[0];
  CHECK(distanceOf(near, original) < 0.5 * distanceOf(far, original));
}

TEST_CASE("samples are the same however they are split") {
  const auto scorer = featureScorer(featureModel(16, 1));
  const json options = {{"method", "ddpm"}, {"respacing", "5"}, {"seed", 2}};
  const auto all = finish(*scorer->sample(options, {3, 16, 16, 0, -1}));
  const auto last = finish(*scorer->sample(options, {1, 16, 16, 2, -1}));
  CHECK(nearly(all[2], last[0]));
  CHECK(!nearly(all[0], all[1]));
}

TEST_CASE("rounds of Algorithm 1 come nearer to the good images, step by step") {
  const auto scorer = gaussianScorer(featureModel(16, 1), false);
  const auto image = picture(16, 16);
  const json options = {{"method", "gradient"}, {"respacing", "50"}, {"step", 0}, {"rounds", 6}, {"gradientSteps", 3}};
  const auto r = scorer->reconstruct(options, {request(image, 16, 16)});
  CHECK(r->steps() == 6);
  std::vector<double> distances;
  while (r->done() < r->steps()) {
    r->advance(Cancel());
    distances.push_back(r->distance(0));
  }
  CHECK(distances.back() < distances.front());
  CHECK(codeOf([&] { r->advance(Cancel()); }) == "ERR_ARGUMENT");
  const auto again = scorer->reconstruct(options, {request(image, 16, 16), request(image, 16, 16)});
  const auto both = finish(*again);
  CHECK(both[0] == both[1]);
  CHECK(nearly(both[0], finish(*scorer->reconstruct(options, {request(image, 16, 16)}))[0]));
}

TEST_CASE("a cancelled step ends the reconstruction with ERR_ABORTED") {
  const auto scorer = featureScorer(featureModel(16, 1));
  const auto image = picture(16, 16);
  const auto r = scorer->reconstruct(kDdpm, {request(image, 16, 16)});
  Cancel cancel;
  r->advance(cancel);
  cancel.request();
  CHECK(codeOf([&] { r->advance(cancel); }) == "ERR_ABORTED");
  CHECK(r->done() == 1);
}

TEST_CASE("the Gaussian travels with the model, and older models do without") {
  for (const bool pooled : {false, true}) {
    CAPTURE(pooled);
    const auto scorer = gaussianScorer(featureModel(16, 1), pooled);
    json config = scorer->config();
    CHECK(config["padim"]["channels"].size() == 12);
    CHECK(config["padim"]["grid"].is_null() == pooled);
    const auto folder = std::filesystem::temp_directory_path();
    const std::string path = (folder / ("ddad-reverse-test-" + std::to_string(getpid()))).string();
    scorer->save(path, config);
    const auto loaded = Scorer::load(openDevice("cpu", 2), path);
    std::remove(path.c_str());
    config["score"]["kind"] = "padim";
    scorer->setConfig(config);
    loaded->setConfig(config);
    const auto image = picture(16, 16);
    const ScoreResult first = scorer->score(request(image, 16, 16), Cancel());
    CHECK(first.map == loaded->score(request(image, 16, 16), Cancel()).map);
    CHECK(first.score > 0);
    CHECK(scorer->memory()["gaussians"] == loaded->memory()["gaussians"]);
    // of another size: where places are told apart, there is nothing to compare with
    const auto larger = picture(32, 16);
    const auto score = [&] { scorer->score(request(larger, 32, 16), Cancel()); };
    CHECK(codeOf(score) == (pooled ? "no error" : "ERR_IMAGE"));
  }
}

TEST_CASE("a whole batch is judged as each image is, by padim") {
  const auto scorer = gaussianScorer(featureModel(16, 1), true);
  json config = scorer->config();
  config["score"]["kind"] = "padim";
  scorer->setConfig(config);
  const auto a = picture(24, 16), b = std::vector<uint8_t>(40 * 40, 90);  // the second takes several tiles
  const Cancel never;
  std::vector<ScoreJob> jobs = {{request(a, 24, 16), &never, {}, nullptr}, {request(b, 40, 40), &never, {}, nullptr}};
  scorer->scoreBatch(jobs.data(), jobs.size());
  for (const ScoreJob& job : jobs) {
    REQUIRE(!job.error);
    CHECK(job.result.map == scorer->score(job.request, never).map);
  }
}

TEST_CASE("what a reconstruction cannot do is refused") {
  const auto scorer = featureScorer(featureModel(16, 1));
  const auto image = picture(16, 16), other = picture(16, 18), large = picture(70, 70);
  const auto begin = [&](const json& options, const std::vector<ScoreRequest>& images) {
    return codeOf([&] { scorer->reconstruct(options, images); });
  };
  CHECK(begin({{"method", "gradient"}}, {request(image, 16, 16)}) == "ERR_CONFIG");  // no Gaussian
  CHECK(begin({{"method", "magic"}}, {request(image, 16, 16)}) == "ERR_CONFIG");
  CHECK(begin(with(kDdpm, {{"step", 10}}), {request(image, 16, 16)}) == "ERR_CONFIG");
  CHECK(begin(with(kDdpm, {{"respacing", "5000"}}), {request(image, 16, 16)}) == "ERR_CONFIG");
  CHECK(begin(kDdpm, {request(image, 16, 16), request(other, 16, 18)}) == "ERR_ARGUMENT");
  CHECK(begin(kDdpm, {request(large, 70, 70)}) == "ERR_IMAGE");  // twice the tile of 32 is the most
  CHECK(codeOf([&] { scorer->sample({{"method", "gradient"}}, {1, 16, 16, 0, -1}); }) == "ERR_CONFIG");
  CHECK(codeOf([&] { scorer->sample(kDdpm, {0, 16, 16, 0, -1}); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { scorer->fitGaussian({{"channels", 0}}); }) == "ERR_CONFIG");
  const auto fitter = scorer->fitGaussian({{"channels", 4}});
  CHECK(codeOf([&] { fitter->finish(); }) == "ERR_NUMERIC");
  fitter->add(request(image, 16, 16), Cancel());
  CHECK(codeOf([&] { fitter->add(request(large, 70, 70), Cancel()); }) == "ERR_IMAGE");
}

TEST_CASE("another choice of channels replaces the Gaussians of all products") {
  json config = featureModel(16, 1);
  config["unet"]["numClasses"] = 2;
  Trainer trainer(openDevice("cpu", 1), config, packagedBackbone());
  const auto scorer = trainer.toScorer(config);
  const auto image = picture(16, 16);
  const auto fit = [&](int label, int channels) {
    const auto fitter = scorer->fitGaussian({{"channels", channels}, {"pooled", true}});
    ScoreRequest r = request(image, 16, 16);
    r.label = label;
    fitter->add(r, Cancel());
    config["padim"] = scorer->setGaussian(label, *fitter);
  };
  const auto begin = [&](int label) {
    ScoreRequest r = request(image, 16, 16);
    r.label = label;
    return codeOf([&] { scorer->reconstruct({{"method", "gradient"}, {"rounds", 1}}, {r}); });
  };
  fit(0, 4);
  CHECK(begin(1) == "ERR_CONFIG");
  fit(1, 4);
  CHECK(begin(0) == "no error");
  CHECK(begin(1) == "no error");
  fit(1, 6);
  CHECK(begin(0) == "ERR_CONFIG");
  CHECK(begin(1) == "no error");
}
