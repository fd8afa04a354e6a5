#include "noise/schedule.h"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "doctest.h"

using namespace ddad;

namespace {

std::string errorCode(const std::string& name, int steps, const std::optional<std::string>& respacing) {
  try {
    makeSchedule(name, steps, respacing);
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

}  // namespace

TEST_SUITE("schedule") {
  TEST_CASE("kept steps are those of guided-diffusion's space_timesteps") {
    struct Case {
      int steps;
      const char* respacing;
      size_t count;
      int64_t sum, weighted;  // of the kept steps; of (position + 1) * step
    };
    for (const Case& c :
         {Case{1000, "250", 250, 124875, 20896611}, Case{300, "10,15,20", 45, 7727, 226591},
          Case{1000, "ddim50", 50, 24500, 833000}, Case{1000, "ddim7", 7, 3003, 16016}, Case{1000, "7", 7, 3496, 18646},
          Case{1000, "333,17,1", 351, 64612, 15499895}, Case{4000, "27", 27, 53987, 1007755}}) {
      CAPTURE(c.respacing);
      const std::vector<int> kept = spacedTimesteps(c.steps, c.respacing);
      int64_t sum = 0, weighted = 0;
      for (size_t i = 0; i < kept.size(); ++i) {
        sum += kept[i];
        weighted += static_cast<int64_t>(i + 1) * kept[i];
      }
      CHECK(kept.size() == c.count);
      CHECK(sum == c.sum);
      CHECK(weighted == c.weighted);
    }
    CHECK(spacedTimesteps(6, "3") == std::vector{0, 2, 5});  // 2.5 rounds to even
    CHECK(spacedTimesteps(10, "3,0,2") == std::vector{0, 2, 3, 7, 9});
    CHECK(spacedTimesteps(11, " 1, 2 ") == std::vector{0, 6, 10});
  }

  TEST_CASE("a respaced chain keeps abar at the kept steps") {
    for (const char* name : {"linear", "cosine"}) {
      const Schedule full = makeSchedule(name, 1000, std::nullopt);
      const Schedule thin = makeSchedule(name, 1000, "250");
      CHECK(full.steps() == 1000);
      CHECK(thin.steps() == 250);
      CHECK(thin.originalSteps == 1000);
      for (int t = 0; t < thin.steps(); ++t)
        CHECK(thin.alphasCumprod[t] == doctest::Approx(full.alphasCumprod[thin.timestepMap[t]]).epsilon(1e-9));
      CHECK(makeSchedule(name, 1000, "").timestepMap == full.timestepMap);
    }
  }

  TEST_CASE("known values") {
    const Schedule linear = makeSchedule("linear", 1000, std::nullopt);
    CHECK(linear.betas.front() == doctest::Approx(1e-4).epsilon(1e-10));
    CHECK(linear.betas.back() == doctest::Approx(0.02).epsilon(1e-10));
    CHECK(linear.posteriorLogVarianceClipped[0] == linear.posteriorLogVarianceClipped[1]);
    CHECK(linear.posteriorMeanCoef1[0] == doctest::Approx(1.0));
    CHECK(linear.posteriorMeanCoef2[0] == 0.0);
    const Schedule half = makeSchedule("linear", 500, std::nullopt);
    CHECK(half.betas.back() == doctest::Approx(0.04).epsilon(1e-10));
    const Schedule cosine = makeSchedule("cosine", 1000, std::nullopt);
    CHECK(cosine.betas.back() == doctest::Approx(0.999).epsilon(1e-10));
  }

  TEST_CASE("the float coefficients are those of the arrays") {
    const Schedule schedule = makeSchedule("linear", 1000, "250");
    for (const int t : {0, 1, 100, 249}) {
      const StepCoefficients k = stepCoefficients(schedule, t);
      const double abar = schedule.alphasCumprod[t];
      CHECK(k.sqrtAlphasCumprod == doctest::Approx(std::sqrt(abar)).epsilon(1e-6));
      CHECK(k.sqrtOneMinusAlphasCumprod == doctest::Approx(std::sqrt(1 - abar)).epsilon(1e-6));
      CHECK(k.sqrtRecipm1 == doctest::Approx(std::sqrt(1 / abar - 1)).epsilon(1e-6));
      CHECK(k.posteriorLogVariance + k.logVarianceRange == doctest::Approx(std::log(schedule.betas[t])).epsilon(1e-6));
      CHECK(k.posteriorStd * k.posteriorInvStd == doctest::Approx(1).epsilon(1e-6));
      CHECK(k.first == (t == 0 ? 1 : 0));
      const DdimCoefficients random = ddimCoefficients(schedule, t, 1.0);
      // With eta 1 DDIM has the variance of the DDPM posterior.
      if (t > 0) CHECK(random.sigma * random.sigma == doctest::Approx(schedule.posteriorVariance[t]).epsilon(1e-5));
      CHECK(ddimCoefficients(schedule, t, 0.0).sigma == 0.0f);
    }
    CHECK_THROWS_AS(stepCoefficients(schedule, 250), Error);
    CHECK_THROWS_AS(stepCoefficients(schedule, -1), Error);
  }

  TEST_CASE("bad configurations") {
    for (const char* respacing : {"0", "1", "abc", "10,", ",10", "10,,10", "-5", "1001", "501,1", "2.5", "ddim",
                                  "ddim0", "ddim999", "ddimx", "99999999999"}) {
      CAPTURE(respacing);
      CHECK(errorCode("linear", 1000, respacing) == "ERR_CONFIG");
    }
    CHECK(errorCode("quadratic", 1000, std::nullopt) == "ERR_CONFIG");
    CHECK(errorCode("linear", 1, std::nullopt) == "ERR_CONFIG");
    CHECK(errorCode("linear", 0, std::nullopt) == "ERR_CONFIG");
    CHECK(errorCode("linear", -3, std::nullopt) == "ERR_CONFIG");
    CHECK(errorCode("linear", 19, std::nullopt) == "ERR_CONFIG");  // the last beta would be above 1
    CHECK(errorCode("linear", 20, std::nullopt) == "none");
    CHECK(errorCode("linear", 1000, std::nullopt) == "none");
  }
}
