#include "noise/schedule.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <string_view>

#include "base/error.h"

namespace ddad {
namespace {

constexpr int kMaxSteps = 1000000;

std::vector<double> namedBetas(const std::string& name, int steps) {
  std::vector<double> betas(steps);
  if (name == "linear") {
    const double scale = 1000.0 / steps;
    const double start = scale * 0.0001, stop = scale * 0.02;
    const double delta = (stop - start) / (steps - 1);
    for (int i = 0; i < steps; ++i) betas[i] = i * delta + start;
    betas.back() = stop;
  } else if (name == "cosine") {
    const auto alphaBar = [](double u) {
      const double c = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
      return c * c;
    };
    for (int i = 0; i < steps; ++i)
      betas[i] =
          std::min(1 - alphaBar(static_cast<double>(i + 1) / steps) / alphaBar(static_cast<double>(i) / steps), 0.999);
  } else {
    throw Error("ERR_CONFIG", "diffusion.schedule: expected \"linear\" or \"cosine\", got \"" + name + "\"");
  }
  for (const double beta : betas)
    if (!(beta > 0 && beta <= 1))
      throw Error("ERR_CONFIG", "diffusion.steps: the " + name + " schedule needs more steps than " +
                                    std::to_string(steps) + ", some beta is not in (0, 1]");
  return betas;
}

[[noreturn]] void badRespacing(const std::string& respacing, const std::string& why) {
  const std::string expected =
      R"(respacing: expected a number of steps ("250"), several ("10,15,20") or a fixed stride ("ddim50"))";
  throw Error("ERR_CONFIG", expected + ", got \"" + respacing + "\": " + why);
}

int parseCount(std::string_view text, const std::string& respacing) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value < 0)
    badRespacing(respacing, std::string(text).append(" is not a number of steps"));
  return value;
}

std::vector<int> fixedStride(int steps, const std::string& respacing) {
  const int wanted = parseCount(std::string_view(respacing).substr(4), respacing);
  for (int stride = 1; stride < steps; ++stride) {
    if ((steps + stride - 1) / stride != wanted) continue;
    std::vector<int> kept;
    for (int t = 0; t < steps; t += stride) kept.push_back(t);
    return kept;
  }
  badRespacing(respacing,
               "no whole stride over " + std::to_string(steps) + " steps keeps exactly " + std::to_string(wanted));
}

void fillDerived(Schedule& s) {
  const int n = s.steps();
  for (auto* array :
       {&s.logBetas, &s.alphasCumprod, &s.alphasCumprodPrev, &s.sqrtRecipAlphasCumprod, &s.sqrtRecipm1AlphasCumprod,
        &s.posteriorVariance, &s.posteriorLogVarianceClipped, &s.posteriorMeanCoef1, &s.posteriorMeanCoef2})
    array->resize(n);
  double product = 1.0;
  for (int t = 0; t < n; ++t) {
    const double beta = s.betas[t], alpha = 1.0 - beta, previous = product;
    product *= alpha;
    s.logBetas[t] = std::log(beta);
    s.alphasCumprod[t] = product;
    s.alphasCumprodPrev[t] = previous;
    s.sqrtRecipAlphasCumprod[t] = std::sqrt(1.0 / product);
    s.sqrtRecipm1AlphasCumprod[t] = std::sqrt(1.0 / product - 1);
    s.posteriorVariance[t] = beta * (1.0 - previous) / (1.0 - product);
    s.posteriorMeanCoef1[t] = beta * std::sqrt(previous) / (1.0 - product);
    s.posteriorMeanCoef2[t] = (1.0 - previous) * std::sqrt(alpha) / (1.0 - product);
  }
  for (int t = 0; t < n; ++t) s.posteriorLogVarianceClipped[t] = std::log(s.posteriorVariance[std::max(t, 1)]);
}

void checkStep(const Schedule& schedule, int t) {
  if (t < 0 || t >= schedule.steps())
    throw Error("ERR_ARGUMENT", "a step of the chain: expected 0 to " + std::to_string(schedule.steps() - 1) +
                                    ", got " + std::to_string(t));
}

}  // namespace

std::vector<int> spacedTimesteps(int steps, const std::string& respacing) {
  if (respacing.starts_with("ddim")) return fixedStride(steps, respacing);
  std::vector<int> counts;
  for (size_t begin = 0; begin <= respacing.size();) {
    const size_t comma = std::min(respacing.find(',', begin), respacing.size());
    counts.push_back(parseCount(std::string_view(respacing).substr(begin, comma - begin), respacing));
    begin = comma + 1;
  }
  const int sections = static_cast<int>(counts.size());
  std::vector<int> kept;
  int start = 0;
  for (int i = 0; i < sections; ++i) {
    const int size = steps / sections + (i < steps % sections ? 1 : 0);
    if (size < counts[i])
      badRespacing(respacing,
                   "a section of " + std::to_string(size) + " steps cannot keep " + std::to_string(counts[i]));
    const double stride = counts[i] <= 1 ? 1.0 : static_cast<double>(size - 1) / (counts[i] - 1);
    double position = 0.0;
    for (int j = 0; j < counts[i]; ++j) {
      kept.push_back(start + static_cast<int>(std::nearbyint(position)));  // half to even, as Python rounds
      position += stride;
    }
    start += size;
  }
  std::sort(kept.begin(), kept.end());
  kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
  return kept;
}

Schedule makeSchedule(const std::string& name, int steps, const std::optional<std::string>& respacing) {
  if (steps < 2 || steps > kMaxSteps)
    throw Error("ERR_CONFIG",
                "diffusion.steps: expected 2 to " + std::to_string(kMaxSteps) + ", got " + std::to_string(steps));
  const std::vector<double> betas = namedBetas(name, steps);
  const bool thinned = respacing && !respacing->empty();
  const std::vector<int> kept = spacedTimesteps(steps, thinned ? *respacing : std::to_string(steps));
  if (kept.size() < 2) badRespacing(*respacing, "at least 2 steps must be kept");

  Schedule schedule;
  schedule.originalSteps = steps;
  double product = 1.0, last = 1.0;
  size_t next = 0;
  for (int t = 0; t < steps && next < kept.size(); ++t) {
    product *= 1.0 - betas[t];
    if (kept[next] != t) continue;
    schedule.betas.push_back(1 - product / last);
    schedule.timestepMap.push_back(t);
    last = product;
    ++next;
  }
  fillDerived(schedule);
  return schedule;
}

StepCoefficients stepCoefficients(const Schedule& schedule, int t) {
  checkStep(schedule, t);
  const double abar = schedule.alphasCumprod[t];
  const double logVariance = schedule.posteriorLogVarianceClipped[t];
  const double coef1 = schedule.posteriorMeanCoef1[t];
  StepCoefficients k;
  k.sqrtAlphasCumprod = static_cast<float>(std::sqrt(abar));
  k.sqrtOneMinusAlphasCumprod = static_cast<float>(std::sqrt(1.0 - abar));
  k.sqrtRecip = static_cast<float>(schedule.sqrtRecipAlphasCumprod[t]);
  k.sqrtRecipm1 = static_cast<float>(schedule.sqrtRecipm1AlphasCumprod[t]);
  k.posteriorMeanCoef1 = static_cast<float>(coef1);
  k.posteriorMeanCoef2 = static_cast<float>(schedule.posteriorMeanCoef2[t]);
  k.posteriorLogVariance = static_cast<float>(logVariance);
  k.logVarianceRange = static_cast<float>(schedule.logBetas[t] - logVariance);
  k.posteriorStd = static_cast<float>(std::exp(0.5 * logVariance));
  k.posteriorInvStd = static_cast<float>(std::exp(-0.5 * logVariance));
  k.klWeight = static_cast<float>(coef1 * coef1 * std::exp(-logVariance));
  k.logOneMinusAlphasCumprod = static_cast<float>(std::log1p(-abar));
  k.first = t == 0 ? 1 : 0;
  return k;
}

DdimCoefficients ddimCoefficients(const Schedule& schedule, int t, double eta) {
  checkStep(schedule, t);
  const double abar = schedule.alphasCumprod[t], previous = schedule.alphasCumprodPrev[t];
  const double sigma = eta * std::sqrt((1 - previous) / (1 - abar)) * std::sqrt(1 - abar / previous);
  DdimCoefficients k;
  k.sqrtAlphasCumprodPrev = static_cast<float>(std::sqrt(previous));
  // Never below 0 but for rounding, where 1 - abar is as small as that.
  k.direction = static_cast<float>(std::sqrt(std::max(0.0, 1 - previous - sigma * sigma)));
  k.sigma = t == 0 ? 0.0f : static_cast<float>(sigma);
  return k;
}

}  // namespace ddad
