#pragma once
// Checkpoints as torch.save writes them: zip archives, and the form before PyTorch 1.6.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "file/safetensors.h"

namespace ddad {

/// A tensor of a mapped file. `data` is its first element, may be unaligned, and lives as long as the mapping.
struct StridedTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape, strides;  // strides in elements
  const std::byte* data = nullptr;

  /// Elements: the product of the shape, 1 for a scalar.
  int64_t count() const;
  /// Whether its elements lie one after the other, in row-major order.
  bool contiguous() const;
  /// Elements from its first to its last in the file, others between them included; 0 when it is empty.
  int64_t span() const;
};

/// A view of a tensor of a safetensors file.
StridedTensor stridedView(const TensorEntry& entry);

/// Elements [first, first + count) of a tensor of reals, counted in row-major order, as floats.
void readReals(const StridedTensor& tensor, int64_t first, int64_t count, float* out);

enum class TorchFormat { kNone, kZip, kLegacy };

/// What a file looks like, by its first bytes.
TorchFormat torchFormat(std::string_view bytes);

/// The tensors of a checkpoint, which must not be kNone, in their order. Of dictionaries in dictionaries the names are
/// joined by dots: "state_dict.out.2.bias". Anything but tensors is left out. Throws CheckpointError.
std::vector<StridedTensor> readTorchTensors(std::string_view bytes, TorchFormat format);

}  // namespace ddad
