#include "export/onnx_model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "file/replacement_file.h"

namespace ddad {
namespace {

// Field numbers of onnx.proto.
namespace model {
enum { kIrVersion = 1, kProducer = 2, kGraph = 7, kOpset = 8, kMetadata = 14 };
}
namespace graph {
enum { kNode = 1, kName = 2, kInitializer = 5, kInput = 11, kOutput = 12 };
}
namespace node {
enum { kInput = 1, kOutput = 2, kName = 3, kOp = 4, kAttribute = 5 };
}
namespace attribute {
enum { kName = 1, kFloat = 2, kInteger = 3, kText = 4, kIntegers = 8, kType = 20 };
enum Type { kFloatType = 1, kIntegerType = 2, kTextType = 3, kIntegersType = 7 };
}  // namespace attribute
namespace tensor {
enum { kDims = 1, kType = 2, kName = 8, kRaw = 9, kExternal = 13, kLocation = 14 };
enum Location { kElsewhere = 1 };
}  // namespace tensor
namespace value {
enum { kName = 1, kType = 2, kAbout = 3, kTensorType = 1, kElement = 1, kShape = 2, kDim = 1, kFixed = 1, kNamed = 2 };
}
enum Element { kFloat32 = 1, kInt64 = 7 };

constexpr int64_t kFileLimit = std::numeric_limits<int32_t>::max();  // of protobuf
constexpr int64_t kKnownBytes = 256;      // constants up to here are looked up: the same one is stored once
constexpr int64_t kExternalBytes = 1024;  // smaller tensors stay in the model, where shape inference needs some of them
constexpr int64_t kPage = 4096;           // tensors begin at a page, so that a runtime can map them

/// Key and value, as metadata and external data have them.
Protobuf entry(std::string_view key, std::string_view text) {
  Protobuf pair;
  pair.text(1, key);
  pair.text(2, text);
  return pair;
}

Protobuf attributeOf(const OnnxAttribute& from) {
  Protobuf a;
  a.text(attribute::kName, from.name);
  if (const auto* v = std::get_if<int64_t>(&from.value)) {
    a.integer(attribute::kInteger, *v);
    a.integer(attribute::kType, attribute::kIntegerType);
  } else if (const auto* f = std::get_if<float>(&from.value)) {
    a.number(attribute::kFloat, *f);
    a.integer(attribute::kType, attribute::kFloatType);
  } else if (const auto* s = std::get_if<std::string>(&from.value)) {
    a.text(attribute::kText, *s);
    a.integer(attribute::kType, attribute::kTextType);
  } else {
    for (const int64_t i : std::get<std::vector<int64_t>>(from.value)) a.integer(attribute::kIntegers, i);
    a.integer(attribute::kType, attribute::kIntegersType);
  }
  return a;
}

Protobuf portOf(const OnnxPort& port) {
  Protobuf shape, tensorType, type, info;
  for (const OnnxDim& dim : port.shape) {
    Protobuf d;
    if (const auto* fixed = std::get_if<int64_t>(&dim))
      d.integer(value::kFixed, *fixed);
    else
      d.text(value::kNamed, std::get<std::string>(dim));
    shape.message(value::kDim, d);
  }
  tensorType.integer(value::kElement, port.integer ? kInt64 : kFloat32);
  tensorType.message(value::kShape, shape);
  type.message(value::kTensorType, tensorType);
  info.text(value::kName, port.name);
  info.message(value::kType, type);
  info.text(value::kAbout, port.about);
  return info;
}

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

}  // namespace

std::string OnnxModel::unique(const std::string& op) {
  return (scope_.empty() ? "" : scope_ + "/") + op + "_" + std::to_string(counter_++);
}

OnnxValue OnnxModel::input(OnnxPort port) {
  inputs_.push_back(std::move(port));
  return inputs_.back().name;
}

void OnnxModel::output(OnnxPort port, const OnnxValue& from) {
  Protobuf n;
  n.text(node::kInput, from);
  n.text(node::kOutput, port.name);
  n.text(node::kName, unique("Identity"));
  n.text(node::kOp, "Identity");
  nodes_.push_back(std::move(n));
  outputs_.push_back(std::move(port));
}

OnnxValue OnnxModel::store(Tensor tensor) {
  const bool small = !tensor.read && tensor.bytes <= kKnownBytes;
  std::string key;
  if (small) {
    key = tensor.integer ? "i" : "f";
    for (const int64_t d : tensor.shape) key += std::to_string(d) + ",";
    key += ":" + tensor.raw;
    if (const auto it = known_.find(key); it != known_.end()) return it->second;
  }
  OnnxValue name = tensor.name;
  tensors_.push_back(std::move(tensor));
  if (small) known_[key] = name;
  return name;
}

OnnxValue OnnxModel::weight(const std::string& name, std::vector<int64_t> shape, std::function<void(float*)> read) {
  const int64_t floats = elements(shape);
  weightFloats_ += floats;
  return store({name, false, std::move(shape), floats * static_cast<int64_t>(sizeof(float)), {}, std::move(read)});
}

OnnxValue OnnxModel::constant(const std::vector<float>& values, std::vector<int64_t> shape) {
  std::string raw(values.size() * sizeof(float), '\0');
  std::memcpy(raw.data(), values.data(), raw.size());
  const auto bytes = static_cast<int64_t>(raw.size());
  return store({unique("constant"), false, std::move(shape), bytes, std::move(raw), {}});
}

OnnxValue OnnxModel::integers(const std::vector<int64_t>& values, std::vector<int64_t> shape) {
  std::string raw(values.size() * sizeof(int64_t), '\0');
  std::memcpy(raw.data(), values.data(), raw.size());
  const auto bytes = static_cast<int64_t>(raw.size());
  return store({unique("constant"), true, std::move(shape), bytes, std::move(raw), {}});
}

OnnxValue OnnxModel::node(const std::string& op, const std::vector<OnnxValue>& inputs,
                          const OnnxAttributes& attributes) {
  std::string key = "n" + op;
  for (const OnnxValue& in : inputs) key += "\n" + in;
  for (const OnnxAttribute& a : attributes) key += "\n" + attributeOf(a).bytes();
  if (const auto it = known_.find(key); it != known_.end()) return it->second;
  return known_[key] = nodes(op, inputs, 1, attributes).front();
}

std::vector<OnnxValue> OnnxModel::nodes(const std::string& op, const std::vector<OnnxValue>& inputs, size_t outputs,
                                        const OnnxAttributes& attributes) {
  const std::string name = unique(op);
  std::vector<OnnxValue> values;
  Protobuf n;
  for (const OnnxValue& in : inputs) n.text(node::kInput, in);
  for (size_t i = 0; i < outputs; ++i) {
    values.push_back(outputs == 1 ? name : name + "." + std::to_string(i));
    n.text(node::kOutput, values.back());
  }
  n.text(node::kName, name);
  n.text(node::kOp, op);
  for (const OnnxAttribute& a : attributes) n.message(node::kAttribute, attributeOf(a));
  nodes_.push_back(std::move(n));
  return values;
}

/// Everything of a tensor but where its values are.
Protobuf OnnxModel::describe(const Tensor& t) const {
  Protobuf p;
  for (const int64_t d : t.shape) p.integer(tensor::kDims, d);
  p.integer(tensor::kType, t.integer ? kInt64 : kFloat32);
  p.text(tensor::kName, t.name);
  return p;
}

/// Of the model with everything in it, roughly from above.
int64_t OnnxModel::inlineBytes() const {
  int64_t bytes = 4096;
  for (const Protobuf& n : nodes_) bytes += n.size() + 16;
  for (const Tensor& t : tensors_) bytes += t.bytes + describe(t).size() + 64;
  for (const auto& [key, text] : metadata_) bytes += static_cast<int64_t>(key.size() + text.size()) + 64;
  return bytes;
}

std::vector<OnnxModel::File> OnnxModel::write(const std::string& path, bool external, const Cancel& cancel) const {
  const bool beside = external || inlineBytes() > kFileLimit;
  const std::string dataPath = path + ".data", dataName = dataPath.substr(dataPath.find_last_of('/') + 1);
  const auto outside = [&](const Tensor& t) { return beside && t.bytes >= kExternalBytes; };

  // Lengths come before contents: the graph's fields first, without the values of its tensors.
  Protobuf body;
  for (const Protobuf& n : nodes_) body.message(graph::kNode, n);
  body.text(graph::kName, name_);
  for (const OnnxPort& port : inputs_) body.message(graph::kInput, portOf(port));
  for (const OnnxPort& port : outputs_) body.message(graph::kOutput, portOf(port));
  std::vector<Protobuf> heads;
  int64_t graphBytes = body.size(), dataEnd = 0;
  for (const Tensor& t : tensors_) {
    Protobuf p = describe(t), head;
    if (outside(t)) {
      dataEnd = (dataEnd + kPage - 1) / kPage * kPage;
      for (const auto& [key, text] : {std::pair<std::string, std::string>{"location", dataName},
                                      {"offset", std::to_string(dataEnd)},
                                      {"length", std::to_string(t.bytes)}})
        p.message(tensor::kExternal, entry(key, text));
      p.integer(tensor::kLocation, tensor::kElsewhere);
      dataEnd += t.bytes;
      head.message(graph::kInitializer, p);
    } else {
      p.begin(tensor::kRaw, t.bytes);
      head.begin(graph::kInitializer, p.size() + t.bytes);
      head.append(p);
    }
    graphBytes += head.size() + (outside(t) ? 0 : t.bytes);
    heads.push_back(std::move(head));
  }
  Protobuf start, opset;
  opset.text(1, "");
  opset.integer(2, kOnnxOpset);
  start.integer(model::kIrVersion, kOnnxIrVersion);
  start.text(model::kProducer, "ddad-native");
  start.message(model::kOpset, opset);
  for (const auto& [key, text] : metadata_) start.message(model::kMetadata, entry(key, text));
  start.begin(model::kGraph, graphBytes);

  ReplacementFile file(path);
  std::optional<ReplacementFile> data;
  if (beside) data.emplace(dataPath);
  file.write(start.bytes().data(), start.bytes().size());
  file.write(body.bytes().data(), body.bytes().size());
  std::vector<float> values;
  const std::string zeros(static_cast<size_t>(kPage), '\0');
  for (size_t i = 0; i < tensors_.size(); ++i) {
    cancel.check();
    const Tensor& t = tensors_[i];
    const void* bytes = t.raw.data();
    if (t.read) {
      values.resize(static_cast<size_t>(t.bytes) / sizeof(float));
      t.read(values.data());
      bytes = values.data();
    }
    file.write(heads[i].bytes().data(), heads[i].bytes().size());
    if (outside(t)) data->write(zeros.data(), static_cast<size_t>((kPage - data->size() % kPage) % kPage));
    (outside(t) ? *data : file).write(bytes, static_cast<size_t>(t.bytes));
  }
  std::vector<File> files = {{path, file.size()}};
  if (data) {
    files.push_back({dataPath, data->size()});
    // both are on the disk before the first takes its place: little can come between the two
    file.flush();
    data->commit();
  }
  file.commit();
  return files;
}

}  // namespace ddad
