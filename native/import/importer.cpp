#include "import/importer.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "backbone/stored_features.h"
#include "base/error.h"
#include "file/checkpoint/checkpoint.h"
#include "file/json_fields.h"
#include "file/reals.h"
#include "file/safetensors_header.h"
#include "file/safetensors_writer.h"
#include "file/tensor_source.h"
#include "graph/parameters.h"
#include "import/infer.h"
#include "unet/initialize.h"
#include "unet/unet.h"

namespace ddad {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = int64_t{1} << 20;  // floats converted at once
constexpr int64_t kPiece = int64_t{1} << 24;  // floats written by one call
constexpr size_t kLongestList = 500;          // of names in a message
constexpr uint64_t kHeadSeed = 0;
constexpr int64_t kMaxHeadChannels = 65536;  // as UNetConfig has it

/// The parameter that tells where a UNet's names begin.
constexpr std::string_view kLandmark = "time_embed.0.weight";
constexpr std::string_view kHead = "feat_rec1.";

bool startsWith(std::string_view text, std::string_view part) { return text.substr(0, part.size()) == part; }

/// Without trailing ones, which kernels of one pixel have more or fewer of.
std::vector<int64_t> essential(std::vector<int64_t> shape) {
  while (!shape.empty() && shape.back() == 1) shape.pop_back();
  return shape;
}

/// Parts of a UNet, all of whose tensors must have found their place.
bool belongsToUNet(std::string_view name) {
  for (std::string_view part : {"time_embed.", "input_blocks.", "middle_block.", "output_blocks.", "out."})
    if (startsWith(name, part)) return true;
  return false;
}

}  // namespace

class ImporterImpl {
 public:
  explicit ImporterImpl(const std::string& path) : checkpoint_(path) {}

  json inspect(const json& options) {
    unet_ = nullptr;
    writer_.reset();
    choosePrefix(options);
    Shapes shapes;
    for (const auto& [name, tensor] : named_) shapes.emplace(name, tensor->shape);
    const json overrides = options.contains("unet") ? requireObject(options, "unet") : json::object();
    try {
      const InferredUNet inferred = inferUNet(shapes, overrides, booleanField(options, "dropLabels", false));
      const UNet net = buildUNet(UNetConfig::fromJson(inferred.unet));
      json report = take(net.graph);
      unet_ = inferred.unet;
      report["format"] = checkpoint_.format();
      report["prefix"] = prefix_;
      report["unet"] = inferred.unet;
      report["assumed"] = inferred.assumed;
      report["head"] = headIn(inferred.unet);
      return report;
    } catch (const Error& error) {
      // without anything given it is the file that contradicts itself
      if (error.code() == "ERR_CONFIG" && !overrides.empty()) throw;
      const std::string what = error.what();
      if (startsWith(what, checkpoint_.path())) throw;
      refuse(what);
    }
  }

  void begin(const std::string& path, const json& config, const std::string& backbone) {
    if (unet_.is_null()) throw Error("ERR_ARGUMENT", "begin: expected an inspected checkpoint; call inspect first");
    writer_.reset();
    fresh_.clear();
    sources_.clear();
    json unet = requireObject(config, "unet");
    const UNet net = buildUNet(UNetConfig::fromJson(unet));
    unet.erase("featureChannels");
    if (unet != unet_) throw Error("ERR_CONFIG", "unet: expected the network that inspect has found, got another");
    const FeatureConfig features = FeatureConfig::fromJson(config);
    if (static_cast<bool>(features) != (net.features >= 0))
      throw Error("ERR_CONFIG", "features: expected strides with a feature head, and none without");

    const bool fileHasHead = headFits(net.graph);
    std::vector<TensorToWrite> tensors;
    for (const OpRecord& op : net.graph.ops()) {
      const bool fresh = startsWith(op.name, kHead) && !fileHasHead;
      if (fresh) makeFresh(net.graph, op);
      for (ParamId id : op.params) {
        const ParamSpec& p = net.graph.param(id);
        tensors.push_back({p.name, DType::kF32, p.shape, nullptr});
        sources_.push_back(fresh ? Source{nullptr, fresh_.at(p.name).data(), p.size()}
                                 : Source{named_.at(p.name), nullptr, p.size()});
      }
    }
    std::map<std::string, std::string> metadata{
        {"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config.dump()}};
    if (features) {
      features_.emplace(openFeatures(*openTensorSource(backbone), "", features));
      if (features_->channels() != static_cast<int64_t>(net.graph.tensor(net.features).channels))
        throw Error("ERR_CONFIG", "unet.featureChannels: the backbone's taps have " +
                                      std::to_string(features_->channels()) + " channels");
      const size_t before = tensors.size();
      appendFeatures(*features_, tensors, metadata);
      for (size_t i = before; i < tensors.size(); ++i) {
        int64_t count = 1;
        for (int64_t extent : tensors[i].shape) count *= extent;
        sources_.push_back({nullptr, static_cast<const float*>(tensors[i].data), count});
      }
    }
    total_ = done_ = 0;
    for (const Source& source : sources_) total_ += source.count;
    next_ = 0;
    offset_ = 0;
    writer_ = std::make_unique<SafetensorsWriter>(path, metadata, tensors);
  }

  double write(const Cancel& cancel) {
    if (!writer_) throw Error("ERR_ARGUMENT", "write: expected a file that has been begun; call begin first");
    try {
      return writePiece(cancel);
    } catch (...) {
      writer_.reset();  // what has been written is of no use
      throw;
    }
  }

 private:
  double writePiece(const Cancel& cancel) {
    buffer_.resize(static_cast<size_t>(kChunk));
    for (int64_t left = kPiece; left > 0 && next_ < sources_.size();) {
      cancel.check();
      const Source& source = sources_[next_];
      const int64_t count = std::min({kChunk, left, source.count - offset_});
      const float* values = source.values ? source.values + offset_ : read(*source.tensor, count);
      writer_->write(values, static_cast<size_t>(count) * sizeof(float));
      offset_ += count;
      done_ += count;
      left -= count;
      if (offset_ < source.count) continue;
      ++next_;
      offset_ = 0;
    }
    if (next_ < sources_.size()) return 0.99 * static_cast<double>(done_) / static_cast<double>(total_);
    writer_->commit();
    writer_.reset();
    return 1;
  }

  struct Source {
    const StridedTensor* tensor;  // of the checkpoint, or null
    const float* values;
    int64_t count;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error("ERR_MODEL_FORMAT", checkpoint_.path() + ": " + what);
  }

  /// The tensors of the network: those whose names begin with the prefix that is given, else with the one that there
  /// is; of several that of an average of the weights, which is the one to score with.
  void choosePrefix(const json& options) {
    std::set<std::string> prefixes;
    for (const StridedTensor& tensor : checkpoint_.tensors()) {
      const size_t at = tensor.name.size() - std::min(tensor.name.size(), kLandmark.size());
      if (tensor.name.compare(at, std::string::npos, kLandmark) == 0) prefixes.insert(tensor.name.substr(0, at));
    }
    std::string known;
    for (const std::string& prefix : prefixes) {
      if (known.size() > kLongestList) break;
      known += (known.empty() ? "" : ", ") + quoteName(prefix);
    }
    if (prefixes.empty())
      refuse("expected the parameters of a UNet of guided-diffusion, got no tensor \"" + std::string(kLandmark) + "\"");
    if (options.contains("prefix")) {
      prefix_ = stringField(options, "prefix", "");
      if (!prefixes.contains(prefix_))
        throw Error("ERR_CONFIG", "prefix: expected one of " + known + ", got " + quoteName(prefix_));
    } else {
      const auto average = [](const std::string& prefix) { return prefix.find("ema") != std::string::npos; };
      const auto averages = std::count_if(prefixes.begin(), prefixes.end(), average);
      if (prefixes.size() > 1 && averages != 1)
        refuse("expected the parameters of one network, got several; prefix says which: one of " + known);
      prefix_ = *(averages == 1 ? std::find_if(prefixes.begin(), prefixes.end(), average) : prefixes.begin());
    }
    named_.clear();
    for (const StridedTensor& tensor : checkpoint_.tensors())
      if (startsWith(tensor.name, prefix_)) named_.emplace(tensor.name.substr(prefix_.size()), &tensor);
  }

  /// Checks that the checkpoint has every parameter of the graph, and says what is taken and what is not.
  json take(const Graph& graph) const {
    std::set<std::string> dtypes;
    std::set<std::string_view> used;
    int64_t values = 0, bytes = 0;
    for (const ParamSpec& p : graph.params()) {
      const StridedTensor& tensor = checked(p);
      used.insert(p.name);
      dtypes.insert(dtypeName(tensor.dtype));
      values += p.size();
      bytes += p.size() * dtypeSize(tensor.dtype);
    }
    // tensors that share their bytes could make a file of any size from a small one
    if (bytes > checkpoint_.bytes())
      refuse("expected a storage for each parameter, got " + std::to_string(bytes) + " bytes of them in a file of " +
             std::to_string(checkpoint_.bytes()));
    json leftOut = json::array();
    for (const StridedTensor& tensor : checkpoint_.tensors()) {
      const bool inside = startsWith(tensor.name, prefix_);
      const std::string name = inside ? tensor.name.substr(prefix_.size()) : tensor.name;
      if (inside && (used.contains(name) || startsWith(name, kHead))) continue;
      if (inside && belongsToUNet(name))
        refuse("tensor " + quoteName(tensor.name) +
               ": expected none of that name in the network that the others are of");
      leftOut.push_back(tensor.name);
    }
    return {{"dtypes", dtypes},
            {"tensors", graph.params().size()},
            {"parameters", values},
            {"leftOut", std::move(leftOut)}};
  }

  const StridedTensor& checked(const ParamSpec& p) const {
    const auto found = named_.find(p.name);
    if (found == named_.end()) refuse("expected a tensor " + quoteName(prefix_ + p.name) + ", got none of that name");
    const StridedTensor& tensor = *found->second;
    if (!isReal(tensor.dtype))
      refuse("tensor " + quoteName(tensor.name) + ": expected F64, F32, F16 or BF16, got " + dtypeName(tensor.dtype));
    if (essential(tensor.shape) != essential(p.shape))
      refuse("tensor " + quoteName(tensor.name) + ": expected " + shapeText(p.shape) + ", got " +
             shapeText(tensor.shape));
    return tensor;
  }

  int64_t headChannels() const {
    const auto found = named_.find(std::string(kHead) + "2.weight");
    return found == named_.end() || found->second->shape.empty() ? 0 : found->second->shape[0];
  }

  /// Channels of the feature head, where the network can have it as it is there; else 0.
  int64_t headIn(json unet) const {
    const int64_t channels = headChannels();
    if (channels < 1 || channels > kMaxHeadChannels || unet["channelMult"].size() < 3) return 0;
    unet["featureChannels"] = channels;
    return headFits(buildUNet(UNetConfig::fromJson(unet)).graph) ? channels : 0;
  }

  bool headFits(const Graph& graph) const {
    return std::all_of(graph.params().begin(), graph.params().end(), [&](const ParamSpec& p) {
      if (!startsWith(p.name, kHead)) return true;
      const auto found = named_.find(p.name);
      return found != named_.end() && isReal(found->second->dtype) &&
             essential(found->second->shape) == essential(p.shape);
    });
  }

  void makeFresh(const Graph& graph, const OpRecord& op) {
    for (ParamId id : op.params) fresh_[graph.param(id).name].assign(static_cast<size_t>(graph.param(id).size()), 0.0f);
    initializeOp(graph, op, kHeadSeed, [&](const ParamSpec& p) { return fresh_.at(p.name).data(); });
  }

  const float* read(const StridedTensor& tensor, int64_t count) {
    readReals(tensor, offset_, count, buffer_.data());
    const std::string bad = notFinite(buffer_.data(), count, offset_);
    if (!bad.empty()) refuse("tensor " + quoteName(tensor.name) + ": " + bad);
    const int64_t size = dtypeSize(tensor.dtype);
    if (tensor.contiguous())
      checkpoint_.release(tensor.data + offset_ * size, count * size);
    else if (offset_ + count == tensor.count())
      checkpoint_.release(tensor.data, tensor.span() * size);
    return buffer_.data();
  }

  const Checkpoint checkpoint_;
  std::string prefix_;
  std::map<std::string, const StridedTensor*> named_;  // without the prefix
  json unet_;

  std::map<std::string, std::vector<float>> fresh_;
  std::optional<FeatureSource> features_;
  std::vector<Source> sources_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<float> buffer_;
  size_t next_ = 0;     // source
  int64_t offset_ = 0;  // in it
  int64_t done_ = 0, total_ = 0;
};

Importer::Importer(const std::string& path) : impl_(std::make_unique<ImporterImpl>(path)) {}
Importer::~Importer() = default;
json Importer::inspect(const json& options) { return impl_->inspect(options); }
void Importer::begin(const std::string& path, const json& config, const std::string& backbone) {
  impl_->begin(path, config, backbone);
}
double Importer::write(const Cancel& cancel) { return impl_->write(cancel); }

}  // namespace ddad
