#pragma once
// Named tensors with metadata, whatever container they come in: what a reader of weights needs to know of a file.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "file/message_text.h"

namespace ddad {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// The file's name, for messages.
  virtual const std::string& path() const = 0;
  /// Strings that the file carries beside its tensors; empty when it has none.
  virtual const std::map<std::string, std::string>& metadata() const = 0;
  /// The shape of the tensor of that name, or null when there is none.
  virtual const std::vector<int64_t>* findShape(const std::string& name) const = 0;
  /// Reads weights: converts a tensor of reals of exactly this shape to float32 in `out`, which holds the product of
  /// `shape` elements. Throws ERR_MODEL_FORMAT, naming file and tensor, for a missing tensor, another shape or element
  /// type, or a value that is NaN or infinite in float32; `out` is then unspecified.
  virtual void readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const = 0;

  bool has(const std::string& name) const { return findShape(name) != nullptr; }
  /// The shape of the tensor of that name. Throws ERR_MODEL_FORMAT, naming file and tensor, when there is none.
  const std::vector<int64_t>& shapeOf(const std::string& name) const;

 protected:
  TensorSource() = default;
  TensorSource(const TensorSource&) = default;
  TensorSource& operator=(const TensorSource&) = default;
  /// Throws ERR_MODEL_FORMAT with the file's name before `what`.
  [[noreturn]] void fail(const std::string& what) const;
};

}  // namespace ddad
