#include "file/checkpoint/checkpoint.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "file/checkpoint/pickle.h"
#include "file/digest.h"
#include "file/reals.h"
#include "file/safetensors_header.h"

namespace ddad {

Checkpoint::Checkpoint(const std::string& path) : path_(path), torch_(std::make_unique<MappedFile>(path)) {
  const std::string_view bytes(reinterpret_cast<const char*>(torch_->bytes()), torch_->size());
  const auto refuse = [&](const std::string& what) { throw Error("ERR_MODEL_FORMAT", path + ": " + what); };
  const TorchFormat format = torchFormat(bytes);
  if (format == TorchFormat::kNone) {
    if (bytes.size() <= 8 || bytes[8] != '{')
      refuse("expected a checkpoint of PyTorch or a safetensors file, got neither");
    torch_.reset();
    format_ = "safetensors";
    safetensors_.emplace(SafetensorsFile::open(path));
    requireDigest(*safetensors_);
    for (const TensorEntry& entry : safetensors_->tensors()) tensors_.push_back(stridedView(entry));
  } else {
    format_ = format == TorchFormat::kZip ? "zip" : "legacy";
    try {
      tensors_ = readTorchTensors(bytes, format);
    } catch (const CheckpointError& error) {
      refuse(error.what());
    }
  }
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const std::map<std::string, std::string>& Checkpoint::metadata() const {
  static const std::map<std::string, std::string> none;
  return safetensors_ ? safetensors_->metadata() : none;
}

const std::vector<int64_t>* Checkpoint::findShape(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second].shape;
}

void Checkpoint::readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const {
  const std::vector<int64_t>& actual = shapeOf(name);
  const StridedTensor& tensor = tensors_[index_.at(name)];
  const auto refuse = [&](const std::string& what) { fail("tensor " + quoteName(name) + ": " + what); };
  if (!std::equal(actual.begin(), actual.end(), shape.begin(), shape.end()))
    refuse("expected shape " + shapeText(shape) + ", got " + shapeText(actual));
  if (!isReal(tensor.dtype)) refuse(std::string("expected reals, got ") + dtypeName(tensor.dtype));
  readReals(tensor, 0, tensor.count(), out);
  if (const std::string what = notFinite(out, tensor.count()); !what.empty()) refuse(what);
}

std::unique_ptr<TensorSource> openTensorSource(const std::string& path) { return std::make_unique<Checkpoint>(path); }

}  // namespace ddad
