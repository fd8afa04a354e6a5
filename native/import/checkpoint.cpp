#include "import/checkpoint.h"

#include <string_view>

#include "file/pickle.h"
#include "tensor/error.h"

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
    for (const TensorEntry& entry : safetensors_->tensors()) tensors_.push_back(stridedView(entry));
    return;
  }
  format_ = format == TorchFormat::kZip ? "zip" : "legacy";
  try {
    tensors_ = readTorchTensors(bytes, format);
  } catch (const CheckpointError& error) {
    refuse(error.what());
  }
}

}  // namespace ddad
