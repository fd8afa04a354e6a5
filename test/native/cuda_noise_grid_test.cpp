// The bodies of the GPU's diffusion kernels, run over their grids on the CPU, against the processor's own functions,
// which noise_test.cpp holds against the formulas in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <tuple>
#include <vector>

#include "device/open_device.h"
#include "doctest.h"
#include "noise/noise_grid.h"
#include "noise/score_grid.h"
#include "noise_reference.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kLn2 = std::numbers::ln2;

/// What a kernel writes: not a number before, and four values behind the end that must stay as they are.
struct Output {
  static constexpr float kBehind = -77.0f;
  std::vector<float> values;
  explicit Output(int64_t count) : values(static_cast<size_t>(count), kNan) { values.insert(values.end(), 4, kBehind); }
  float* data() { return values.data(); }
  int64_t size() const { return static_cast<int64_t>(values.size()) - 4; }
};

/// Each value within `tolerance` of itself and of the typical value, since both sides round in another order.
void checkClose(const Output& got, const std::vector<float>& want, double tolerance) {
  REQUIRE(got.size() == static_cast<int64_t>(want.size()));
  double squares = 0.0;
  for (const float w : want) squares += static_cast<double>(w) * static_cast<double>(w);
  const double typical = std::sqrt(squares / static_cast<double>(want.size()));
  double worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double w = static_cast<double>(want[i]), error = std::abs(static_cast<double>(got.values[i]) - w);
    const double share = error / (std::abs(w) + typical);
    if (error != 0.0 && !(share <= worst) && !std::isnan(worst)) worst = share;
  }
  CHECK(worst <= tolerance);
  for (int64_t i = 0; i < 4; ++i) CHECK(got.values[want.size() + static_cast<size_t>(i)] == Output::kBehind);
}

void checkClose(double got, double want, double tolerance) {
  const double error = std::abs(got - want);
  CHECK_MESSAGE(error <= tolerance * (std::abs(want) + 1e-12), got << " for " << want);
}

std::shared_ptr<Device> processor() { return openDevice("cpu", 1); }

/// Runs `body` with batches of 1, 2, 3 and 6 channels that end within a quad, within a block and at its end, with given
/// and with drawn noise, with 16-byte loads where a sample has whole quads and without.
template <class Body>
void forCases(Body body) {
  for (const auto& [samples, pixels, channels] : {std::tuple<int64_t, int64_t, int>{1, 1, 1},
                                                  {3, 7, 1},
                                                  {2, 1024, 1},
                                                  {2, 2049, 1},
                                                  {3, 515, 2},
                                                  {1, 1, 3},
                                                  {4, 341, 3},
                                                  {2, 1500, 3},
                                                  {2, 85, 6}}) {
    CAPTURE(pixels);
    CAPTURE(channels);
    std::vector<int> steps = {0, 1, 500, 999};  // of each batch the first is the decoder's
    steps.resize(static_cast<size_t>(samples));
    const NoiseCase c(samples, pixels, channels, steps);
    for (const bool given : {true, false}) {
      CAPTURE(given);
      const std::vector<NoiseSource> noise = given ? c.sources() : c.drawn;
      for (const bool aligned : {true, false}) {
        if (aligned && c.batch.elements() % kQuad != 0) continue;
        CAPTURE(aligned);
        body(c, noise, QuadBatch{samples, pixels, channels, aligned});
      }
    }
  }
}

std::vector<float> floats(int64_t count) { return std::vector<float>(static_cast<size_t>(count), kNan); }
std::vector<double> doubles(int64_t count) {
  return std::vector<double>(static_cast<size_t>(count), std::numeric_limits<double>::quiet_NaN());
}

}  // namespace

TEST_CASE("grid: normal numbers of a source") {
  const NoiseSource source{nullptr, 0x123456789abcdefull, kStreamScoreNoise, 17, 5};
  const auto given = randomValues(5000, 2);
  for (const int64_t count : {1, 3, 4, 1023, 1025, 5000})
    for (const NoiseSource& from : {source, NoiseSource{.values = given.data()}}) {
      Output got(count);
      auto want = floats(count);
      const FillNormal kernel{from, count, got.data()};
      runGrid(kernel);
      fillNormal(*processor(), from, count, want.data());
      checkClose(got, want, 2e-6);
    }
}

TEST_CASE("grid: noising") {
  forCases([](const NoiseCase& c, const std::vector<NoiseSource>& noise, const QuadBatch& batch) {
    for (const int64_t stride : {c.batch.elements(), int64_t{0}}) {
      Output got(c.images());
      auto want = floats(c.images());
      const NoiseImages kernel{batch, {c.x0.data(), stride}, c.k.data(), noise.data(), got.data()};
      runGrid(kernel, batch.extent(kernel.kThreads));
      noising(*processor(), c.batch, {c.x0.data(), stride}, c.k.data(), noise.data(), want.data());
      checkClose(got, want, 2e-6);
    }
  });
}

TEST_CASE("grid: the loss and its gradient") {
  forCases([](const NoiseCase& c, const std::vector<NoiseSource>& noise, const QuadBatch& batch) {
    const double vbWeight = 0.25, elements = static_cast<double>(c.batch.elements()), bits = vbWeight / kLn2;
    const int64_t lossSamples = c.samples() + 3, blocks = batch.blocks(LossElements::kThreads);
    const double scale = 1.0 / (elements * static_cast<double>(lossSamples));
    auto partial = doubles(c.samples() * blocks * 2);
    std::vector<SampleLoss> losses(c.k.size(), SampleLoss{NAN, NAN, NAN}), want(c.k.size());
    Output gradient(c.outputs());
    auto wantGradient = floats(c.outputs());
    diffusionLoss(*processor(), c.batch, c.x0View(), c.output.data(), c.k.data(), noise.data(), vbWeight, lossSamples,
                  want.data(), wantGradient.data());
    for (float* const to : {gradient.data(), static_cast<float*>(nullptr)}) {
      std::fill(losses.begin(), losses.end(), SampleLoss{NAN, NAN, NAN});
      std::fill(partial.begin(), partial.end(), std::numeric_limits<double>::quiet_NaN());
      const LossElements kernel{batch,
                                c.x0View(),
                                c.output.data(),
                                c.k.data(),
                                noise.data(),
                                static_cast<float>(scale),
                                static_cast<float>(bits * scale),
                                to,
                                partial.data()};
      runGrid(kernel, batch.extent(kernel.kThreads));
      const LossTotals totals{partial.data(), c.samples(), blocks, elements, bits, losses.data()};
      runGrid(totals);
      for (size_t n = 0; n < losses.size(); ++n) {
        checkClose(losses[n].mse, want[n].mse, 1e-5);
        checkClose(losses[n].vb, want[n].vb, 1e-5);
        checkClose(losses[n].loss, want[n].loss, 1e-5);
      }
    }
    // samples apart: at step 0 the gradient by v is many times that of the others
    const int64_t size = 2 * c.batch.elements();
    for (int64_t n = 0; n < c.samples(); ++n) {
      Output own(size);
      std::copy_n(gradient.data() + n * size, size, own.data());
      checkClose(own, {wantGradient.begin() + n * size, wantGradient.begin() + (n + 1) * size}, 2e-5);
    }
  });
}

TEST_CASE("grid: the pixel-level score, its statistics and the map") {
  const std::vector<EnsembleTerm> terms = {{1, 0}, {0.5f, 1}, {2, -1}, {3, 0.25f}};
  forCases([&](const NoiseCase& c, const std::vector<NoiseSource>& noise, const QuadBatch& batch) {
    for (const PixelMeasure measure : {PixelMeasure::kKl, PixelMeasure::kReconstruction})
      for (const int64_t stride : {c.batch.elements(), int64_t{0}}) {
        const ImageView x0 = {c.x0.data(), stride};
        Output values(c.samples() * c.pixels()), map(c.pixels());
        auto wantValues = floats(values.size()), wantMap = floats(c.pixels());
        std::vector<PixelStatistics> statistics(c.k.size(), {NAN, NAN, NAN, NAN}), want(c.k.size());
        ScorePixels kernel{
            batch, x0, c.output.data(), c.k.data(), noise.data(), measure == PixelMeasure::kKl, values.data(), nullptr};
        auto partial = doubles(c.samples() * kernel.blocks() * 4);
        kernel.partial = partial.data();
        runGrid(kernel);
        const ScoreStatistics totals{partial.data(),
                                     c.samples(),
                                     kernel.blocks(),
                                     static_cast<double>(c.pixels()),
                                     static_cast<double>(c.batch.elements()),
                                     statistics.data()};
        runGrid(totals);
        const ScoreMap sum{values.data(), terms.data(), c.samples(), c.pixels(), map.data()};
        runGrid(sum);
        pixelScore(*processor(), measure, c.batch, x0, c.output.data(), c.k.data(), noise.data(), terms.data(),
                   wantValues.data(), want.data(), wantMap.data());
        checkClose(values, wantValues, 1e-5);
        checkClose(map, wantMap, 1e-5);
        for (size_t n = 0; n < want.size(); ++n) {
          checkClose(statistics[n].mean, want[n].mean, 1e-5);
          checkClose(statistics[n].std, want[n].std, 1e-5);
          checkClose(statistics[n].elementMean, want[n].elementMean, 1e-5);
          checkClose(statistics[n].elementStd, want[n].elementStd, 1e-5);
        }
      }
  });
}

TEST_CASE("grid: the variational term by element, clamped and not, as KL and as the decoder's") {
  forCases([](const NoiseCase& c, const std::vector<NoiseSource>& noise, const QuadBatch& batch) {
    for (const bool clip : {true, false})
      for (const bool decoder : {true, false}) {
        Output nats(c.images());
        auto want = floats(c.images());
        const VariationalElements kernel{batch,        c.x0View(), c.output.data(), c.k.data(),
                                         noise.data(), clip,       decoder,         nats.data()};
        runGrid(kernel, batch.extent(kernel.kThreads));
        variationalMap(*processor(), c.batch, c.x0View(), c.output.data(), c.k.data(), noise.data(), clip, decoder,
                       want.data());
        checkClose(nats, want, 2e-5);
      }
  });
}

TEST_CASE("grid: the prior's bits") {
  forCases([](const NoiseCase& c, const std::vector<NoiseSource>&, const QuadBatch& batch) {
    const StepCoefficients last = stepCoefficients(c.schedule, 300);  // where the prior is not next to nothing
    const int64_t blocks = batch.blocks(PriorElements::kThreads);
    auto partial = doubles(c.samples() * blocks), bits = doubles(c.samples()), want = bits;
    const PriorElements kernel{batch, c.x0View(), last, partial.data()};
    runGrid(kernel, batch.extent(kernel.kThreads));
    const PriorTotals totals{partial.data(), c.samples(), blocks,
                             1.0 / (static_cast<double>(c.batch.elements()) * kLn2), bits.data()};
    runGrid(totals);
    priorBits(*processor(), c.batch, c.x0View(), last, want.data());
    for (size_t n = 0; n < want.size(); ++n) checkClose(bits[n], want[n], 1e-5);
  });
}

TEST_CASE("grid: a reverse step, with and without noise, in place, outputs left out") {
  forCases([](const NoiseCase& c, const std::vector<NoiseSource>& noise, const QuadBatch& batch) {
    auto xt = floats(c.images());
    noising(*processor(), c.batch, c.x0View(), c.k.data(), c.sources().data(), xt.data());
    std::vector<DdimCoefficients> ddim;
    for (const int t : c.t) ddim.push_back(ddimCoefficients(c.schedule, t, 0.6));
    const auto run = [&](const DdimCoefficients* d, const NoiseSource* z, bool clip, const float* x,
                         const ReverseOutputs& outputs) {
      const ReverseElements kernel{batch, x, c.output.data(), c.k.data(), d, z, clip, outputs};
      runGrid(kernel, batch.extent(kernel.kThreads));
    };
    for (const DdimCoefficients* d :
         {static_cast<const DdimCoefficients*>(nullptr), static_cast<const DdimCoefficients*>(ddim.data())})
      for (const NoiseSource* z : {static_cast<const NoiseSource*>(nullptr), noise.data()})
        for (const bool clip : {true, false}) {
          Output start(c.images()), mean(c.images()), logVariance(c.images()), next(c.images()), inPlace(c.images());
          auto a = floats(c.images()), b = a, e = a, f = a;
          reverseStep(*processor(), c.batch, xt.data(), c.output.data(), c.k.data(), d, z, clip,
                      {a.data(), b.data(), e.data(), f.data()});
          run(d, z, clip, xt.data(), {start.data(), mean.data(), logVariance.data(), next.data()});
          checkClose(start, a, 1e-5);
          checkClose(mean, b, 1e-5);
          checkClose(logVariance, e, 1e-5);
          checkClose(next, f, 1e-5);
          std::copy(xt.begin(), xt.end(), inPlace.data());
          run(d, z, clip, inPlace.data(), {.next = inPlace.data()});
          CHECK(inPlace.values == next.values);
          Output only(c.images());
          run(d, nullptr, clip, xt.data(), {.xstart = only.data()});
          CHECK(only.values == start.values);
        }
  });
}

namespace {

/// Both kernels' x after a step down `gradient`.
void checkDescent(const std::vector<float>& gradient, const std::vector<float>& before, bool finite) {
  const auto elements = static_cast<int64_t>(gradient.size());
  Output x(elements);
  auto want = before;
  std::copy(before.begin(), before.end(), x.data());
  GradientMoments moments{gradient.data(), elements, nullptr};
  auto partial = doubles(moments.blocks() * 2);
  moments.partial = partial.data();
  runGrid(moments);
  float factors[3] = {kNan, kNan, kNan};
  runGrid(DescendFactors{partial.data(), moments.blocks(), static_cast<double>(elements), 0.2, factors});
  const DescendElements kernel{factors, gradient.data(), elements, x.data()};
  runGrid(kernel);
  descend(*processor(), elements, 0.2, gradient.data(), want.data());
  if (finite) return checkClose(x, want, 2e-6);
  bool same = true;
  for (size_t i = 0; i < want.size(); ++i) same = same && std::isnan(x.values[i]) == std::isnan(want[i]);
  CHECK(same);
}

}  // namespace

TEST_CASE("grid: a step down the gradient; none where it is the same everywhere; what is no number shows") {
  for (const int64_t elements : {1, 2, 1023, 1024, 5001}) {
    CAPTURE(elements);
    const auto before = randomValues(elements, 7);
    auto gradient = randomValues(elements, 8);
    for (float& g : gradient) g = 1e-3f * (g + 0.5f);
    checkDescent(gradient, before, true);
    if (elements < 2) continue;
    checkDescent(std::vector<float>(gradient.size(), 0.0f), before, true);
    checkDescent(std::vector<float>(gradient.size(), 0.5f), before, true);
    gradient[1] = kNan;
    checkDescent(gradient, before, false);
  }
}

TEST_CASE("grid: an output that is no number reaches the loss, the statistics and the map") {
  NoiseCase c(2, 300, 1, {0, 400});
  c.output[static_cast<size_t>(2 * c.batch.elements() + 10)] = kNan;  // eps of pixel 5 of the second sample
  const auto noise = c.sources();
  const QuadBatch batch{2, 300, 1, true};
  auto partial = doubles(2 * 2 * 4);
  Output values(600), map(300);
  const ScorePixels kernel{batch,        c.x0View(), c.output.data(), c.k.data(),
                           noise.data(), true,       values.data(),   partial.data()};
  runGrid(kernel);
  PixelStatistics statistics[2];
  const ScoreStatistics totals{partial.data(), 2, kernel.blocks(), 300.0, 300.0, statistics};
  runGrid(totals);
  const std::vector<EnsembleTerm> terms = {{1, 0}, {1, 0}};
  const ScoreMap sum{values.data(), terms.data(), 2, 300, map.data()};
  runGrid(sum);
  CHECK(std::isfinite(statistics[0].std));
  CHECK(std::isnan(statistics[1].mean));
  CHECK(std::isnan(statistics[1].std));
  CHECK(std::isnan(statistics[1].elementStd));
  for (size_t p = 0; p < 300; ++p) CHECK(std::isnan(map.values[p]) == (p == 5));

  auto lossPartial = doubles(2 * 2);
  SampleLoss losses[2];
  const LossElements loss{batch, c.x0View(), c.output.data(), c.k.data(),        noise.data(),
                          1.0f,  1.0f,       nullptr,         lossPartial.data()};
  runGrid(loss, batch.extent(loss.kThreads));
  const LossTotals lossTotals{lossPartial.data(), 2, 1, 300.0, 1.0, losses};
  runGrid(lossTotals);
  CHECK(std::isfinite(losses[0].loss));
  CHECK(std::isnan(losses[1].loss));
}
