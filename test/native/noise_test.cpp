#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/philox.h"
#include "device/open_device.h"
#include "doctest.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "noise_reference.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

std::shared_ptr<Device> cpu(int threads) { return openDevice("cpu", threads); }

std::vector<float> pick(const std::vector<float>& values, int64_t first, int64_t count) {
  return {values.begin() + first, values.begin() + first + count};
}

double largest(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, static_cast<double>(std::abs(a[i] - b[i])));
  return worst;
}

}  // namespace

TEST_SUITE("noise") {
  TEST_CASE("element e of a sample is lane e % 4 of block e / 4") {
    const NoiseSource source{nullptr, 0x123456789abcdefull, kStreamScoreNoise, 17, 5};
    for (const int64_t count : {1, 3, 4, 1023, 5000}) {
      std::vector<float> noise(count);
      fillNormal(*cpu(2), source, count, noise.data());
      double worst = 0.0;
      for (int64_t e = 0; e < count; ++e) {
        float block[4];
        philoxNormal4(source.seed, source.stream, source.step, source.sample, static_cast<uint32_t>(e / 4), block);
        worst = std::max(worst, static_cast<double>(std::abs(noise[e] - block[e % 4])));
      }
      CHECK(worst < 2e-6);  // rounding between instruction sets
    }
  }

  TEST_CASE("noise, loss and score do not depend on threads or batch split") {
    for (const int channels : {1, 3, 4}) {
      CAPTURE(channels);
      const NoiseCase all(5, 1500, channels, {0, 1, 20, 500, 999});
      std::vector<float> xt(all.images()), gradient(all.outputs()), kl(all.samples() * all.pixels());
      std::vector<SampleLoss> losses(all.samples());
      std::vector<PixelStatistics> statistics(all.samples());
      const std::vector<EnsembleTerm> terms = {{1, 0}, {0.5f, 1}, {2, -1}, {3, 0.25f}, {0.1f, 2}};
      std::vector<float> map(all.pixels());
      noising(*cpu(1), all.batch, all.x0View(), all.k.data(), all.drawn.data(), xt.data());
      diffusionLoss(*cpu(1), all.batch, all.x0View(), all.output.data(), all.k.data(), all.drawn.data(), 1.0, 5,
                    losses.data(), gradient.data());
      pixelScore(*cpu(1), PixelMeasure::kKl, all.batch, all.x0View(), all.output.data(), all.k.data(), all.drawn.data(),
                 terms.data(), kl.data(), statistics.data(), map.data());

      for (const int threads : {2, 3, 8}) {
        std::vector<float> xt2(xt.size()), gradient2(gradient.size()), kl2(kl.size()), map2(map.size());
        std::vector<SampleLoss> losses2(5);
        std::vector<PixelStatistics> statistics2(5);
        noising(*cpu(threads), all.batch, all.x0View(), all.k.data(), all.drawn.data(), xt2.data());
        diffusionLoss(*cpu(threads), all.batch, all.x0View(), all.output.data(), all.k.data(), all.drawn.data(), 1.0, 5,
                      losses2.data(), gradient2.data());
        pixelScore(*cpu(threads), PixelMeasure::kKl, all.batch, all.x0View(), all.output.data(), all.k.data(),
                   all.drawn.data(), terms.data(), kl2.data(), statistics2.data(), map2.data());
        CHECK(xt2 == xt);
        CHECK(gradient2 == gradient);
        CHECK(kl2 == kl);
        CHECK(map2 == map);
        CHECK(std::memcmp(losses2.data(), losses.data(), sizeof(SampleLoss) * 5) == 0);
        CHECK(std::memcmp(statistics2.data(), statistics.data(), sizeof(PixelStatistics) * 5) == 0);
      }

      for (int64_t first = 0, count = 2; first < 5; first += count, count = 3) {
        const ImageBatch part{count, all.pixels(), channels};
        const int64_t images = all.batch.elements();
        const ImageView x0{all.x0.data() + first * images, images};
        std::vector<float> xt2(count * images), gradient2(2 * count * images);
        std::vector<SampleLoss> losses2(count);
        noising(*cpu(2), part, x0, &all.k[first], &all.drawn[first], xt2.data());
        diffusionLoss(*cpu(2), part, x0, all.output.data() + 2 * first * images, &all.k[first], &all.drawn[first], 1.0,
                      5, losses2.data(), gradient2.data());
        CHECK(xt2 == pick(xt, first * images, count * images));
        CHECK(gradient2 == pick(gradient, 2 * first * images, 2 * count * images));
        CHECK(std::memcmp(losses2.data(), &losses[first], sizeof(SampleLoss) * count) == 0);
      }
    }
  }

  TEST_CASE("regenerated noise equals the same noise given as an array") {
    const NoiseCase c(2, 777, 3, {3, 700});
    std::vector<NoiseSource> given;
    std::vector<float> noise(c.images());
    for (int64_t n = 0; n < 2; ++n) {
      fillNormal(*cpu(1), c.drawn[n], c.batch.elements(), noise.data() + n * c.batch.elements());
      given.push_back({.values = noise.data() + n * c.batch.elements()});
    }
    std::vector<float> a(c.images()), b(c.images()), ga(c.outputs()), gb(c.outputs());
    SampleLoss la[2], lb[2];
    noising(*cpu(1), c.batch, c.x0View(), c.k.data(), c.drawn.data(), a.data());
    noising(*cpu(1), c.batch, c.x0View(), c.k.data(), given.data(), b.data());
    CHECK(a == b);
    diffusionLoss(*cpu(1), c.batch, c.x0View(), c.output.data(), c.k.data(), c.drawn.data(), 1, 2, la, ga.data());
    diffusionLoss(*cpu(1), c.batch, c.x0View(), c.output.data(), c.k.data(), given.data(), 1, 2, lb, gb.data());
    CHECK(ga == gb);
    CHECK(la[1].loss == lb[1].loss);
  }

  TEST_CASE("the loss and its gradient against finite differences in double") {
    for (const double vbWeight : {1.0, 0.25})
      for (const int channels : {1, 3}) {
        CAPTURE(vbWeight);
        CAPTURE(channels);
        const NoiseCase c(4, 23, channels, {0, 1, 400, 999});
        std::vector<SampleLoss> losses(4);
        std::vector<float> gradient(c.outputs());
        diffusionLoss(*cpu(1), c.batch, c.x0View(), c.output.data(), c.k.data(), c.sources().data(), vbWeight, 4,
                      losses.data(), gradient.data());
        double error2 = 0.0, norm2 = 0.0;
        for (int64_t n = 0; n < 4; ++n) {
          CAPTURE(n);
          const std::vector<double> output = c.outputOf(n);
          const ReferenceLoss exact = referenceLoss(c, n, output, output);
          CHECK(losses[n].mse == doctest::Approx(exact.mse).epsilon(1e-6));
          CHECK(losses[n].vb == doctest::Approx(exact.vb * vbWeight).epsilon(1e-5));
          CHECK(losses[n].loss == losses[n].mse + losses[n].vb);
          for (size_t i = 0; i < output.size(); ++i) {
            constexpr double kStep = 1e-5;
            std::vector<double> up = output, down = output;
            up[i] += kStep;
            down[i] -= kStep;
            // The variational term sees the unchanged eps.
            const ReferenceLoss a = referenceLoss(c, n, up, output), b = referenceLoss(c, n, down, output);
            const double exactGradient = (a.mse + vbWeight * a.vb - b.mse - vbWeight * b.vb) / (2 * kStep) / 4;
            const double difference = gradient[n * output.size() + i] - exactGradient;
            error2 += difference * difference;
            norm2 += exactGradient * exactGradient;
          }
        }
        CHECK(std::sqrt(error2 / norm2) < 1e-5);
      }
  }

  TEST_CASE("the decoder's likelihood in the tails and at the floor") {
    // Each output 500 standard deviations off, or with a standard deviation that is next to nothing or huge.
    const Schedule schedule = makeSchedule("linear", 1000, std::nullopt);
    const StepCoefficients k = stepCoefficients(schedule, 0);
    for (const float x0 : {-1.0f, -0.5f, 0.99f, 1.0f})
      for (const float difference : {0.0f, 1e-3f, -0.02f, 0.05f, 5.0f, -5.0f})
        for (const float v : {-1.0f, 0.0f, 1.0f, 40.0f, -400.0f, 400.0f}) {
          CAPTURE(x0);
          CAPTURE(difference);
          CAPTURE(v);
          float dv;
          const float nats = decoderNllGradient(k, x0, difference, v, &dv);
          const auto exact = [&](double at) {
            return referenceDecoderNll(x0, difference, schedule.posteriorLogVarianceClipped[0],
                                       std::log(schedule.betas[0]), at);
          };
          CHECK(nats == doctest::Approx(exact(v)).epsilon(2e-5).scale(1e-3));
          const double slope = (exact(v + 1e-5) - exact(v - 1e-5)) / 2e-5;
          CHECK(dv == doctest::Approx(slope).epsilon(1e-4).scale(1e-3));
          if (nats > 27.63f) CHECK(dv == 0.0f);
        }
  }

  TEST_CASE("the pixel-level score, its statistics and the ensemble") {
    for (const int channels : {1, 3, 5})
      for (const PixelMeasure measure : {PixelMeasure::kKl, PixelMeasure::kReconstruction}) {
        const NoiseCase c(3, 1000, channels, {20, 201, 401});
        std::vector<float> values(3000), map(1000);
        std::vector<PixelStatistics> statistics(3);
        const std::vector<EnsembleTerm> terms = {{2, 0.5f}, {-1, 0}, {0.25f, 1}};
        pixelScore(*cpu(2), measure, c.batch, c.x0View(), c.output.data(), c.k.data(), c.sources().data(), terms.data(),
                   values.data(), statistics.data(), map.data());
        for (int64_t n = 0; n < 3; ++n) {
          const std::vector<double> exact = referencePixels(measure, c, n);
          double error2 = 0.0, norm2 = 0.0, sum = 0.0, squares = 0.0;
          double all = std::accumulate(exact.begin(), exact.end(), 0.0) / static_cast<double>(exact.size()),
                 spread = 0.0;
          for (const double x : exact) spread += (x - all) * (x - all);
          std::vector<double> means(1000);
          for (int64_t p = 0; p < 1000; ++p) {
            for (int i = 0; i < channels; ++i) means[p] += exact[p * channels + i] / channels;
            error2 += (values[n * 1000 + p] - means[p]) * (values[n * 1000 + p] - means[p]);
            norm2 += means[p] * means[p];
            sum += means[p];
          }
          for (const double x : means) squares += (x - sum / 1000) * (x - sum / 1000);
          CHECK(std::sqrt(error2 / norm2) < 1e-6);
          CHECK(statistics[n].mean == doctest::Approx(sum / 1000).epsilon(1e-6));
          CHECK(statistics[n].std == doctest::Approx(std::sqrt(squares / 999)).epsilon(1e-5));
          CHECK(statistics[n].elementMean == doctest::Approx(all).epsilon(1e-6));
          CHECK(statistics[n].elementStd == doctest::Approx(std::sqrt(spread / (1000.0 * channels - 1))).epsilon(1e-5));
        }
        for (int64_t p = 0; p < 1000; ++p) {
          double expected = 0.0;
          for (int n = 0; n < 3; ++n) expected += terms[n].scale * values[n * 1000 + p] + terms[n].offset;
          CHECK(map[p] == doctest::Approx(expected).epsilon(1e-5));
        }
      }
  }

  TEST_CASE("one image is shared by several scales") {
    NoiseCase c(3, 100, 3, {5, 50, 100});
    for (int64_t n = 1; n < 3; ++n) std::copy_n(c.x0.data(), c.batch.elements(), c.x0.data() + n * c.batch.elements());
    std::vector<float> apart(300), shared(300), xa(c.images()), xs(c.images());
    pixelScore(*cpu(1), PixelMeasure::kKl, c.batch, c.x0View(), c.output.data(), c.k.data(), c.drawn.data(), nullptr,
               apart.data(), nullptr, nullptr);
    pixelScore(*cpu(1), PixelMeasure::kKl, c.batch, {c.x0.data(), 0}, c.output.data(), c.k.data(), c.drawn.data(),
               nullptr, shared.data(), nullptr, nullptr);
    CHECK(apart == shared);
    noising(*cpu(1), c.batch, c.x0View(), c.k.data(), c.drawn.data(), xa.data());
    noising(*cpu(1), c.batch, {c.x0.data(), 0}, c.k.data(), c.drawn.data(), xs.data());
    CHECK(xa == xs);
  }

  TEST_CASE("a NaN in the network's output reaches the results") {
    for (const int t : {0, 30}) {
      NoiseCase c(1, 64, 1, {t});
      for (const int64_t at : {20, 21}) {  // an eps and a v
        NoiseCase bad = c;
        bad.output[at] = std::numeric_limits<float>::quiet_NaN();
        SampleLoss loss;
        std::vector<float> gradient(128), kl(64);
        PixelStatistics statistics;
        diffusionLoss(*cpu(1), bad.batch, bad.x0View(), bad.output.data(), bad.k.data(), bad.drawn.data(), 1, 1, &loss,
                      gradient.data());
        CHECK(std::isnan(loss.loss));
        CHECK(std::isnan(gradient[21]));
        pixelScore(*cpu(1), PixelMeasure::kKl, bad.batch, bad.x0View(), bad.output.data(), bad.k.data(),
                   bad.drawn.data(), nullptr, kl.data(), &statistics, nullptr);
        CHECK(std::isnan(kl[10]));
        CHECK(std::isnan(statistics.mean));
        CHECK(std::isnan(statistics.std));
      }
    }
  }

  TEST_CASE("time steps cover the chain and do not depend on the batch split") {
    std::vector<int32_t> all(4000), part(1500);
    sampleTimesteps(9, 3, 0, 4000, 250, {}, all.data());
    sampleTimesteps(9, 3, 1000, 1500, 250, {}, part.data());
    CHECK(std::equal(part.begin(), part.end(), all.begin() + 1000));
    std::vector<int> counts(250);
    for (const int32_t t : all) {
      REQUIRE(t >= 0);
      REQUIRE(t < 250);
      ++counts[t];
    }
    for (const int count : counts) CHECK(count > 0);
    std::vector<int32_t> next(4000);
    sampleTimesteps(9, 4, 0, 4000, 250, {}, next.data());
    CHECK(next != all);
  }

  TEST_CASE("a focus takes its share of the time steps") {
    std::vector<int32_t> t(20000);
    sampleTimesteps(9, 3, 0, 20000, 1000, {0.75, 200}, t.data());
    const auto below = std::count_if(t.begin(), t.end(), [](int32_t v) { return v < 200; });
    // 3/4 of them, and a fifth of the rest: 0.8, within five standard deviations
    CHECK(std::abs(static_cast<double>(below) / 20000 - 0.8) < 0.015);
    CHECK(*std::max_element(t.begin(), t.end()) > 980);
    CHECK(*std::min_element(t.begin(), t.end()) == 0);
  }

  TEST_CASE("reverse steps") {
    const NoiseCase c(2, 300, 3, {0, 60});
    std::vector<float> xt(c.images()), exact = c.output;
    noising(*cpu(1), c.batch, c.x0View(), c.k.data(), c.sources().data(), xt.data());
    // A network that knows the noise: xhat0 is x_0, the mean is the posterior's.
    for (int64_t p = 0; p < 600; ++p)
      for (int i = 0; i < 3; ++i) exact[p * 6 + i] = c.noise[p * 3 + i];
    std::vector<float> xstart(c.images()), mean(c.images()), logVariance(c.images()), next(c.images());
    const std::vector<NoiseSource> z = {{nullptr, 1, kStreamSampling, 0, 0}, {nullptr, 1, kStreamSampling, 60, 1}};
    reverseStep(*cpu(2), c.batch, xt.data(), exact.data(), c.k.data(), nullptr, z.data(), true,
                {xstart.data(), mean.data(), logVariance.data(), next.data()});
    CHECK(largest(xstart, c.x0) < 1e-5);
    for (int64_t i = 0; i < c.batch.elements(); ++i) CHECK(next[i] == mean[i]);  // nothing random at step 0
    std::vector<float> drawn(c.batch.elements());
    fillNormal(*cpu(1), z[1], c.batch.elements(), drawn.data());
    for (int64_t i = 0; i < c.batch.elements(); ++i) {
      const int64_t at = c.batch.elements() + i;
      CHECK(mean[at] == doctest::Approx(posteriorMean(c.k[1], c.x0[at], xt[at])).epsilon(1e-5).scale(1));
      CHECK(next[at] == doctest::Approx(mean[at] + std::exp(0.5 * logVariance[at]) * drawn[i]).epsilon(1e-5).scale(1));
    }
    // DDIM without noise then moves along the line of that noise.
    const Schedule schedule = makeSchedule("linear", 1000, std::nullopt);
    const std::vector<DdimCoefficients> ddim = {ddimCoefficients(schedule, 0, 0), ddimCoefficients(schedule, 60, 0)};
    std::vector<float> moved(c.images());
    reverseStep(*cpu(1), c.batch, xt.data(), exact.data(), c.k.data(), ddim.data(), nullptr, true,
                {.next = moved.data()});
    const StepCoefficients before = stepCoefficients(schedule, 59);
    for (int64_t i = c.batch.elements(); i < c.images(); ++i)
      CHECK(moved[i] == doctest::Approx(qSample(before, c.x0[i], c.noise[i])).epsilon(1e-4).scale(1));
  }

  TEST_CASE("the prior term") {
    const NoiseCase c(2, 500, 3, {0, 1});
    const Schedule schedule = makeSchedule("linear", 1000, std::nullopt);
    double bits[2];
    priorBits(*cpu(1), c.batch, c.x0View(), stepCoefficients(schedule, 999), bits);
    const double abar = schedule.alphasCumprod[999];
    for (int64_t n = 0; n < 2; ++n) {
      double sum = 0.0;
      for (int64_t i = 0; i < 1500; ++i)
        sum +=
            0.5 * (std::expm1(std::log1p(-abar)) - std::log1p(-abar) + abar * c.x0[n * 1500 + i] * c.x0[n * 1500 + i]);
      CHECK(bits[n] == doctest::Approx(sum / 1500 / std::numbers::ln2).epsilon(1e-5));
    }
  }

  TEST_CASE("too many channels are refused") {
    const ImageBatch batch{1, 1, kMaxImageChannels + 1};
    CHECK_THROWS_AS(noising(*cpu(1), batch, {}, nullptr, nullptr, nullptr), Error);
    CHECK_THROWS_AS(noising(*cpu(1), {1, 1, 0}, {}, nullptr, nullptr, nullptr), Error);
  }
}
