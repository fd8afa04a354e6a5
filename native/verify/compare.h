#pragma once
// The comparison of recomputed tensors with those of a golden file, by the rules of golden/README.md.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace ddad {

class SafetensorsFile;

/// Collects the outputs of one golden file. Error of a tensor: ||out - ref|| / ||ref|| (2-norm, in double). For
/// "grad.*" the denominator is at least 0.05 R sqrt(n), R the root mean square over all "grad.*" of the file.
/// "movement.*" and "ema_movement.*" are each judged as one concatenated tensor; all of "grad.*" are, too, in a row of
/// that name. An error that is not a number fails;
/// so do a tensor that the file lacks, one of another shape, and one in the file that is neither an input nor compared.
class Comparison {
 public:
  explicit Comparison(const SafetensorsFile& file);
  ~Comparison();

  /// Marks tensors as inputs: an exact name, or a prefix that ends in '*' ("param.*").
  void input(const std::string& name);

  /// Compares an output; `values` has the layout of the file (NCHW), `shape` must be the file's.
  void check(const std::string& name, std::span<const float> values, std::span<const int64_t> shape, double tolerance);
  void check(const std::string& name, std::span<const double> values, std::span<const int64_t> shape, double tolerance);
  /// Whole numbers, which must be equal; `error` is the share that is not.
  void checkExact(const std::string& name, std::span<const int32_t> values, std::span<const int64_t> shape);
  /// Records a failure of its own, such as a tensor that could not be computed.
  void fail(const std::string& name, const std::string& reason);

  /// The rows {"name","error","tolerance","ok"[,"reason"]}; call once, at the end.
  nlohmann::json finish(bool* ok);

 private:
  struct Row;
  void add(const std::string& name, const double* values, size_t count, std::span<const int64_t> shape,
           double tolerance);
  bool isInput(const std::string& name) const;

  const SafetensorsFile& file_;
  std::vector<std::string> inputs_;
  std::vector<Row> rows_;
};

/// Between [n, channels, pixels] and [n, pixels, channels].
std::vector<float> toNhwc(std::span<const float> nchw, int64_t n, int64_t channels, int64_t pixels);
std::vector<float> toNchw(std::span<const float> nhwc, int64_t n, int64_t channels, int64_t pixels);

}  // namespace ddad
