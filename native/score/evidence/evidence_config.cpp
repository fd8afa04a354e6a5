#include "score/evidence/evidence_config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

using nlohmann::json;

constexpr size_t kMaxBanks = 8;
constexpr double kPlaceWeight = 5;  // of "place", the last value (bench/accuracy)
constexpr double kTemperature = 2;  // of the mean: 0 would be the largest, infinity the plain mean

std::vector<int64_t> readStrides(const json& list, const FeatureConfig& features) {
  std::vector<int64_t> strides;
  bool valid = list.is_array() && !list.empty();
  for (size_t i = 0; valid && i < list.size(); ++i) {
    const json& v = list[i];
    valid = v.is_number_integer();
    if (!valid) break;
    const auto stride = v.get<int64_t>();
    valid = stride >= 4 && stride <= features.depth && (stride & (stride - 1)) == 0 &&
            (strides.empty() || stride == 2 * strides.back());
    strides.push_back(stride);
  }
  if (!valid)
    throw Error("ERR_CONFIG", "score.evidence.banks: expected neighbouring strides from 4 to " +
                                  std::to_string(features.depth) + ", ascending, got " + list.dump().substr(0, 80));
  return strides;
}

/// The stride of the tap that has a Gaussian for each place, 0 where the field is missing.
int64_t readPlaceStride(const json& evidence, const FeatureConfig& features, bool image) {
  const auto it = evidence.find("placeStride");
  if (it == evidence.end() || it->is_null()) return 0;
  const int64_t stride = it->is_number_integer() ? it->get<int64_t>() : 0;
  if (!(stride >= 4 && stride <= features.depth && (stride & (stride - 1)) == 0))
    throw Error("ERR_CONFIG", "score.evidence.placeStride: expected null or the stride of a tap from 4 to " +
                                  std::to_string(features.depth) + ", got " + it->dump().substr(0, 80));
  if (!image)
    throw Error("ERR_CONFIG", "score.evidence.placeStride: expected null where no whole images are compared, got " +
                                  std::to_string(stride));
  return stride;
}

/// `count` numbers, or none where the field is missing.
std::vector<double> readNumbers(const json& object, const char* name, size_t count) {
  std::vector<double> values;
  const auto it = object.find(name);
  if (it == object.end() || it->is_null()) return values;
  if (it->is_array())
    for (const json& v : *it)
      if (v.is_number()) values.push_back(v.get<double>());
  if (values.size() != count)
    throw Error("ERR_CONFIG", std::string("calibration.evidence.") + name + ": expected " + std::to_string(count) +
                                  " numbers, got " + it->dump().substr(0, 80));
  return values;
}

}  // namespace

std::vector<size_t> EvidenceConfig::judges() const {
  std::vector<size_t> fitted;
  for (size_t i = 0; i < banks.size(); ++i)
    if (banks[i].back() >= 16 || !image) fitted.push_back(i);
  return fitted;
}

std::vector<std::string> EvidenceConfig::names() const {
  std::vector<std::string> names = {"ensemble"};
  for (const size_t bank : judges()) {
    const int64_t deepest = banks[bank].back();
    names.emplace_back(deepest >= 32 ? "localDeep" : deepest >= 16 ? "local" : "localFine");
  }
  if (!judges().empty()) names.emplace_back("regional");
  if (image) names.emplace_back("global");
  if (placeStride > 0) names.emplace_back("place");
  return names;
}

EvidenceConfig EvidenceConfig::fromJson(const json& config, const FeatureConfig& features) {
  EvidenceConfig c;
  const json& score = requireObject(config, "score");
  const auto evidence = score.find("evidence");
  if (evidence == score.end() || evidence->is_null()) return c;
  if (!evidence->is_object())
    throw Error("ERR_CONFIG", "score.evidence: expected an object or null, got " + evidence->dump().substr(0, 80));
  if (!features) throw Error("ERR_CONFIG", "score.evidence: expected null for a model without features");
  const auto banks = evidence->find("banks");
  if (banks == evidence->end() || !banks->is_array() || banks->empty() || banks->size() > kMaxBanks)
    throw Error("ERR_CONFIG", "score.evidence.banks: expected 1 to " + std::to_string(kMaxBanks) + " lists of strides");
  for (const json& list : *banks) c.banks.push_back(readStrides(list, features));
  c.image = booleanField(*evidence, "image", false);
  c.placeStride = readPlaceStride(*evidence, features, c.image);
  const auto calibration = config.find("calibration");
  const bool calibrated = calibration != config.end() && calibration->is_object();
  const json found = calibrated ? calibration->value("evidence", json()) : json();
  if (!found.is_null() && !found.is_object())
    throw Error("ERR_CONFIG", "calibration.evidence: expected an object or null, got " + found.dump().substr(0, 80));
  if (found.is_object() && !booleanField(found, "places", true)) c.placeStride = 0;
  const std::vector<std::string> names = c.names();
  for (size_t i = 1; i < names.size(); ++i)
    if (std::find(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), names[i]) !=
        names.begin() + static_cast<std::ptrdiff_t>(i))
      throw Error(
          "ERR_CONFIG",
          "score.evidence.banks: expected at most one with its deepest tap at stride 16, one at stride 32, and, "
          "where no whole images are compared, one before those");

  if (found.is_null()) return c;
  c.mapMean = readNumbers(found, "mapMean", c.maps());
  c.mapStd = readNumbers(found, "mapStd", c.mapMean.size());
  const double share = numberField(found, "share", -HUGE_VAL, HUGE_VAL, c.share);
  if (!(share >= 0 && share <= 1))
    throw Error("ERR_CONFIG",
                "calibration.evidence.share: expected a number from 0 to 1, got " + std::to_string(share));
  c.share = share;
  c.mean = readNumbers(found, "mean", names.size());
  c.std = readNumbers(found, "std", c.mean.size());
  for (const auto& [name, values] : {std::pair{"mapStd", &c.mapStd}, std::pair{"std", &c.std}})
    for (const double s : *values)
      if (!(s > 0))
        throw Error("ERR_CONFIG", std::string("calibration.evidence.") + name + ": expected positive numbers");
  if (c.mapStd.size() != c.mapMean.size() || c.std.size() != c.mean.size())
    throw Error("ERR_CONFIG", "calibration.evidence: expected a standard deviation for each mean");
  return c;
}

double combineEvidence(const EvidenceConfig& config, const std::vector<double>& values) {
  double largest = -HUGE_VAL;
  std::vector<double> z(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    z[i] = (values[i] - config.mean[i]) / config.std[i];
    if (!(z[i] <= largest)) largest = z[i];
  }
  double sum = 0, total = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    const double weight = config.placeStride > 0 && i + 1 == z.size() ? kPlaceWeight : 1;
    sum += weight * std::exp((z[i] - largest) / kTemperature);
    total += weight;
  }
  return largest + kTemperature * std::log(sum / total);
}

}  // namespace ddad
