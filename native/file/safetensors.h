#pragma once
// Safetensors files: 8 bytes little-endian header length, a JSON header, then the tensors' bytes back to back.
// Models, checkpoints, the backbone and golden vectors are all such files. The reader trusts nothing in a file.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "file/dtype.h"
#include "file/mapped_file.h"
#include "file/tensor_source.h"

namespace ddad {

/// One tensor of an open file. `data` points into the mapping, may be unaligned (copy elements out with memcpy) and
/// lives as long as the SafetensorsFile.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  /// Elements: the product of the shape, 1 for a scalar.
  int64_t count() const;
};

/// Sees the bytes that SafetensorsFile::readFloats reads while they are in the cache: a tensor at a time, its pieces in
/// order.
class ReadObserver {
 public:
  virtual ~ReadObserver() = default;
  virtual void begin() = 0;
  virtual void update(const void* data, size_t bytes) = 0;
  virtual void end(const TensorEntry& tensor) = 0;
};

/// A safetensors file, mapped read-only. Everything is checked in `open`; afterwards the accessors cannot leave the
/// file. Const members may be called from several threads at once. A file that another program shortens while it is
/// mapped raises SIGBUS on access, as with any mapping: replace files by renaming, as writeSafetensors does.
class SafetensorsFile final : public TensorSource {
 public:
  /// Longest header accepted, in bytes, as in the reference implementation.
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;

  /// Throws ERR_FILE_READ when the file is missing, unreadable or not a regular file, and ERR_MODEL_FORMAT, naming the
  /// file and what was expected, when it is not a valid safetensors file.
  static SafetensorsFile open(const std::string& path);

  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile() override;

  const std::string& path() const override { return path_; }
  /// The `__metadata__` strings; empty when the file has none.
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  /// All tensors, in the order of their bytes.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }

  const std::vector<int64_t>* findShape(const std::string& name) const override;
  /// The tensor of that name, or null.
  const TensorEntry* find(const std::string& name) const;
  /// The tensor of that name. Throws ERR_MODEL_FORMAT, naming file and tensor, when there is none.
  const TensorEntry& get(const std::string& name) const;

  /// The tensor of that name and exactly this shape. Throws ERR_MODEL_FORMAT, naming file and tensor.
  const TensorEntry& checkShape(const std::string& name, std::span<const int64_t> shape) const;

  /// All elements of an F64, F32, F16 or BF16 tensor; F64 is rounded. Keeps NaN and infinities. Throws ERR_MODEL_FORMAT
  /// for a missing tensor or another element type.
  std::vector<float> floats(const std::string& name) const;
  /// As `floats`, in double precision.
  std::vector<double> doubles(const std::string& name) const;
  /// All elements of an integer tensor. Throws ERR_MODEL_FORMAT for a missing tensor, another element type, or a value
  /// that does not fit 32 bits.
  std::vector<int32_t> ints(const std::string& name) const;

  /// Takes F64, F32, F16 and BF16.
  void readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const override;

  /// The JSON text before the tensors.
  std::string_view headerText() const { return headerText_; }
  /// From now on readFloats tells `observer` what it reads; null: nobody. See DigestCheck.
  void observe(ReadObserver* observer) const { observer_ = observer; }
  /// The mapped bytes, into which the tensors' data point.
  const MappedFile& mapping() const { return *mapping_; }

 private:
  SafetensorsFile(std::string path, std::unique_ptr<MappedFile> mapping);

  std::string path_;
  std::unique_ptr<MappedFile> mapping_;
  std::string_view headerText_;
  mutable ReadObserver* observer_ = nullptr;
  std::map<std::string, std::string> metadata_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

/// A tensor for writeSafetensors: `data` holds the product of `shape` elements of `dtype`; null when that is 0.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

/// Writes a safetensors file with SafetensorsWriter, tensors in the given order, with its digest in the metadata; equal
/// arguments give equal bytes.
/// Throws ERR_ARGUMENT for missing data, too.
void writeSafetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                      const std::vector<TensorToWrite>& tensors);

}  // namespace ddad
