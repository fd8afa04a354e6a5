#include "verify/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "file/safetensors.h"
#include "nlohmann/json.hpp"

namespace ddad {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kGradientFloor = 0.05;

double ratio(double numerator, double denominator) {
  if (numerator == 0.0) return 0.0;
  return numerator / denominator;
}

/// The tensors that are judged as one: "movement", "ema_movement" or "".
std::string groupOf(const std::string& name) {
  for (const char* group : {"movement", "ema_movement"})
    if (name.starts_with(std::string(group) + ".")) return group;
  return "";
}

nlohmann::json rowOf(const std::string& name, double error, double tolerance, const std::string& reason) {
  const bool ok = reason.empty() && error <= tolerance;  // NaN is not <= anything
  nlohmann::json row = {{"name", name},
                        {"error", std::isfinite(error) ? nlohmann::json(error) : nlohmann::json()},
                        {"tolerance", std::isfinite(tolerance) ? nlohmann::json(tolerance) : nlohmann::json()},
                        {"ok", ok}};
  if (!reason.empty())
    row["reason"] = reason;
  else if (!std::isfinite(error))
    row["reason"] = "the error is not a number";
  return row;
}

}  // namespace

struct Comparison::Row {
  std::string name;
  double difference2 = 0.0, reference2 = 0.0;  // squared norms
  double elements = 0.0;
  double tolerance = kNan;
  std::string reason;  // why there is nothing to compare
};

Comparison::Comparison(const SafetensorsFile& file) : file_(file) {}
Comparison::~Comparison() = default;

void Comparison::input(const std::string& name) { inputs_.push_back(name); }

bool Comparison::isInput(const std::string& name) const {
  return std::any_of(inputs_.begin(), inputs_.end(), [&](const std::string& input) {
    return input.ends_with('*') ? name.starts_with(input.substr(0, input.size() - 1)) : name == input;
  });
}

void Comparison::add(const std::string& name, const double* values, size_t count, std::span<const int64_t> shape,
                     double tolerance) {
  Row row;
  row.name = name;
  row.tolerance = tolerance;
  const TensorEntry* entry = file_.find(name);
  if (entry == nullptr) {
    row.reason = "the file has no such tensor";
  } else if (!std::equal(shape.begin(), shape.end(), entry->shape.begin(), entry->shape.end())) {
    row.reason = "expected shape " + shapeText(shape) + ", the file has " + shapeText(entry->shape);
  } else if (static_cast<int64_t>(count) != entry->count()) {
    row.reason = "expected " + std::to_string(entry->count()) + " values, got " + std::to_string(count);
  } else {
    const std::vector<double> reference = file_.doubles(name);
    for (size_t i = 0; i < count; ++i) {
      const double difference = values[i] - reference[i];
      row.difference2 += difference * difference;
      row.reference2 += reference[i] * reference[i];
    }
    row.elements = static_cast<double>(count);
  }
  rows_.push_back(std::move(row));
}

void Comparison::check(const std::string& name, std::span<const float> values, std::span<const int64_t> shape,
                       double tolerance) {
  const std::vector<double> wide(values.begin(), values.end());
  add(name, wide.data(), wide.size(), shape, tolerance);
}

void Comparison::check(const std::string& name, std::span<const double> values, std::span<const int64_t> shape,
                       double tolerance) {
  add(name, values.data(), values.size(), shape, tolerance);
}

void Comparison::checkExact(const std::string& name, std::span<const int32_t> values, std::span<const int64_t> shape) {
  Row row;
  row.name = name;
  row.tolerance = 0.0;
  const TensorEntry* entry = file_.find(name);
  if (entry == nullptr) {
    row.reason = "the file has no such tensor";
  } else if (!std::equal(shape.begin(), shape.end(), entry->shape.begin(), entry->shape.end())) {
    row.reason = "expected shape " + shapeText(shape) + ", the file has " + shapeText(entry->shape);
  } else {
    // The share of unequal values, in the form of squared norms.
    const std::vector<int32_t> reference = file_.ints(name);
    for (size_t i = 0; i < reference.size(); ++i) row.difference2 += values[i] != reference[i] ? 1.0 : 0.0;
    row.difference2 *= row.difference2;
    row.reference2 = static_cast<double>(reference.size()) * static_cast<double>(reference.size());
    row.elements = static_cast<double>(reference.size());
  }
  rows_.push_back(std::move(row));
}

void Comparison::fail(const std::string& name, const std::string& reason) {
  Row row;
  row.name = name;
  row.reason = reason;
  rows_.push_back(std::move(row));
}

nlohmann::json Comparison::finish(bool* ok) {
  std::set<std::string> seen;
  for (const Row& row : rows_) seen.insert(row.name);
  for (const TensorEntry& entry : file_.tensors())
    if (!seen.contains(entry.name) && !isInput(entry.name))
      fail(entry.name, "neither an input nor an output that this program computes");

  double gradient2 = 0.0, gradientDifference2 = 0.0, gradientElements = 0.0, gradientTolerance = 0.0;
  std::map<std::string, Row> groups;
  for (const Row& row : rows_) {
    if (!row.reason.empty()) continue;
    if (row.name.starts_with("grad.")) {
      gradient2 += row.reference2;
      gradientDifference2 += row.difference2;
      gradientTolerance = row.tolerance;
      gradientElements += row.elements;
    }
    const std::string group = groupOf(row.name);
    if (group.empty()) continue;
    Row& all = groups[group];
    all.difference2 += row.difference2;
    all.reference2 += row.reference2;
    all.tolerance = row.tolerance;
  }

  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) {
    double denominator = std::sqrt(row.reference2);
    const std::string group = groupOf(row.name);
    if (row.name.starts_with("grad.") && gradientElements > 0)
      denominator = std::max(denominator, kGradientFloor * std::sqrt(gradient2 / gradientElements * row.elements));
    else if (!group.empty())
      denominator = std::sqrt(groups[group].reference2);
    const double error = row.reason.empty() ? ratio(std::sqrt(row.difference2), denominator) : kNan;
    rows.push_back(rowOf(row.name, error, row.tolerance, row.reason));
  }
  for (const auto& [name, all] : groups)
    rows.push_back(rowOf(name + ".*", ratio(std::sqrt(all.difference2), std::sqrt(all.reference2)), all.tolerance, ""));

  if (gradientElements > 0)
    rows.push_back(rowOf("grad.*", ratio(std::sqrt(gradientDifference2), std::sqrt(gradient2)), gradientTolerance, ""));

  *ok = !rows.empty() && std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row["ok"] == true; });
  return rows;
}

std::vector<float> toNhwc(std::span<const float> nchw, int64_t n, int64_t channels, int64_t pixels) {
  std::vector<float> out(nchw.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < pixels; ++p) out[(i * pixels + p) * channels + c] = nchw[(i * channels + c) * pixels + p];
  return out;
}

std::vector<float> toNchw(std::span<const float> nhwc, int64_t n, int64_t channels, int64_t pixels) {
  std::vector<float> out(nhwc.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < pixels; ++p) out[(i * channels + c) * pixels + p] = nhwc[(i * pixels + p) * channels + c];
  return out;
}

}  // namespace ddad
