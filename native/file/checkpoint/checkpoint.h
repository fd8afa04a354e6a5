#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "file/checkpoint/torch_file.h"
#include "file/mapped_file.h"
#include "file/safetensors.h"
#include "file/tensor_source.h"

namespace ddad {

/// A checkpoint of another program: a file of torch.save, in its present or old form, or of safetensors; mapped.
class Checkpoint final : public TensorSource {
 public:
  /// Throws ERR_FILE_READ, and ERR_MODEL_FORMAT for a file of another kind, a damaged one, or one whose pickle asks for
  /// more than a state dict needs.
  explicit Checkpoint(const std::string& path);

  const std::string& path() const override { return path_; }
  /// Of a safetensors file; a checkpoint of PyTorch has none.
  const std::map<std::string, std::string>& metadata() const override;
  const std::vector<int64_t>* findShape(const std::string& name) const override;
  void readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const override;
  /// "zip", "legacy" or "safetensors".
  const char* format() const { return format_; }
  const std::vector<StridedTensor>& tensors() const { return tensors_; }
  /// Of the file.
  int64_t bytes() const { return static_cast<int64_t>(mapping().size()); }
  /// Lets go of the memory of `bytes` bytes from `from` on, which are read from the file again when they are needed.
  void release(const std::byte* from, int64_t bytes) const { mapping().release(from, static_cast<size_t>(bytes)); }

 private:
  const MappedFile& mapping() const { return torch_ ? *torch_ : safetensors_->mapping(); }

  std::string path_;
  const char* format_ = "";
  std::unique_ptr<MappedFile> torch_;  // null for safetensors
  std::optional<SafetensorsFile> safetensors_;
  std::vector<StridedTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

/// Opens a file of weights, whichever of the known containers it is. Throws ERR_FILE_READ and ERR_MODEL_FORMAT.
std::unique_ptr<TensorSource> openTensorSource(const std::string& path);

}  // namespace ddad
