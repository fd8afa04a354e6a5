#pragma once
// An ONNX model under construction, and its file. Weights are read when the file is written, one after the other, so
// that a model of any size takes the memory of its largest tensor.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/cancel.h"
#include "export/protobuf.h"

namespace ddad {

/// Version of the operators, and of the file format that came with it. All that the graphs need is in it since
/// opset 17 (2022), so older runtimes take them too.
constexpr int64_t kOnnxOpset = 17, kOnnxIrVersion = 8;

/// A value in the graph: an input, a constant or what a node computes.
using OnnxValue = std::string;

struct OnnxAttribute {
  std::string name;
  std::variant<int64_t, float, std::string, std::vector<int64_t>> value;
};
using OnnxAttributes = std::vector<OnnxAttribute>;

/// A dimension: fixed, or named and left open.
using OnnxDim = std::variant<int64_t, std::string>;

/// An input or output of the whole graph.
struct OnnxPort {
  std::string name;
  bool integer = false;  // int64 instead of float32
  std::vector<OnnxDim> shape;
  std::string about;
};

class OnnxModel {
 public:
  explicit OnnxModel(std::string name) : name_(std::move(name)) {}

  OnnxValue input(OnnxPort port);
  /// Makes `value` an output of the graph under the port's name.
  void output(OnnxPort port, const OnnxValue& value);
  /// A float32 tensor whose values `read` fills in when the file is written.
  OnnxValue weight(const std::string& name, std::vector<int64_t> shape, std::function<void(float*)> read);
  OnnxValue constant(const std::vector<float>& values, std::vector<int64_t> shape);
  OnnxValue scalar(float value) { return constant({value}, {}); }
  OnnxValue integers(const std::vector<int64_t>& values, std::vector<int64_t> shape);
  OnnxValue integers(const std::vector<int64_t>& values) {
    return integers(values, {static_cast<int64_t>(values.size())});
  }
  /// A node with one output. The same node again is the same value.
  OnnxValue node(const std::string& op, const std::vector<OnnxValue>& inputs, const OnnxAttributes& attributes = {});
  /// A node with several outputs.
  std::vector<OnnxValue> nodes(const std::string& op, const std::vector<OnnxValue>& inputs, size_t outputs,
                               const OnnxAttributes& attributes = {});
  /// What names of nodes begin with from now on.
  void scope(std::string name) { scope_ = std::move(name); }
  void metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  const std::vector<OnnxPort>& inputs() const { return inputs_; }
  const std::vector<OnnxPort>& outputs() const { return outputs_; }
  int64_t nodeCount() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t weightFloats() const { return weightFloats_; }

  struct File {
    std::string path;
    int64_t bytes;
  };
  /// Writes the model to `path`; large tensors go to `path`.data beside it, where `external` says so or protobuf's
  /// limit of 2 GiB for a file asks for it. Each file takes the place of an older one as a whole. Throws
  /// ERR_FILE_WRITE, what the weights' readers throw, and ERR_ABORTED.
  std::vector<File> write(const std::string& path, bool external, const Cancel& cancel) const;

 private:
  struct Tensor {
    std::string name;
    bool integer;
    std::vector<int64_t> shape;
    int64_t bytes;
    std::string raw;                   // of a constant
    std::function<void(float*)> read;  // of a weight
  };
  std::string unique(const std::string& op);
  OnnxValue store(Tensor tensor);
  Protobuf describe(const Tensor& tensor) const;
  int64_t inlineBytes() const;

  std::string name_, scope_;
  std::vector<OnnxPort> inputs_, outputs_;
  std::vector<Tensor> tensors_;
  std::vector<Protobuf> nodes_;
  std::map<std::string, OnnxValue> known_;  // nodes and small constants by what they are
  std::map<std::string, std::string> metadata_;
  int64_t counter_ = 0, weightFloats_ = 0;
};

}  // namespace ddad
