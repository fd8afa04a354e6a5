#include "file/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/cancel.h"
#include "base/error.h"
#include "file/reals.h"
#include "file/safetensors_header.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian and read in place");

namespace ddad {
namespace {

constexpr size_t kLengthBytes = sizeof(uint64_t);
constexpr int64_t kPiece = int64_t{1} << 15;  // values that are read and looked at while they are in the cache

// False when the tensor holds no reals.
template <class Out>
bool readAll(const TensorEntry& tensor, Out* out) {
  if (!isReal(tensor.dtype)) return false;
  readReals(tensor.dtype, tensor.data, 1, tensor.count(), out);
  return true;
}

// The index of the first value that does not fit, or -1.
template <class Stored>
int64_t readIntegers(const TensorEntry& tensor, int32_t* out) {
  const int64_t count = tensor.count();
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, tensor.data + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
    if (!std::in_range<int32_t>(stored)) return i;
    out[i] = static_cast<int32_t>(stored);
  }
  return -1;
}

std::string notReal(const TensorEntry& tensor) {
  return "tensor " + quoteName(tensor.name) + ": expected F64, F32, F16 or BF16, got " + dtypeName(tensor.dtype);
}

}  // namespace

int64_t TensorEntry::count() const {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  return SafetensorsFile(path, std::make_unique<MappedFile>(path));
}

SafetensorsFile::SafetensorsFile(std::string path, std::unique_ptr<MappedFile> mapping)
    : path_(std::move(path)), mapping_(std::move(mapping)) {
  const uint64_t size = mapping_->size();
  if (size < kLengthBytes) fail("expected a safetensors file of at least 8 bytes, got " + std::to_string(size));
  uint64_t headerBytes = 0;
  std::memcpy(&headerBytes, mapping_->bytes(), kLengthBytes);
  if (headerBytes > kMaxHeaderBytes) {
    fail("expected a safetensors header of at most " + std::to_string(kMaxHeaderBytes) + " bytes, got a length of " +
         std::to_string(headerBytes) + " (not a safetensors file?)");
  }
  if (headerBytes > size - kLengthBytes) {
    fail("expected a header of " + std::to_string(headerBytes) + " bytes, got a file of " + std::to_string(size) +
         " bytes (the file is truncated)");
  }
  const char* text = reinterpret_cast<const char*>(mapping_->bytes() + kLengthBytes);
  headerText_ = {text, headerBytes};
  Header header;
  try {
    header = parseHeader(headerText_, size - kLengthBytes - headerBytes);
  } catch (const HeaderError& error) {
    fail(error.what());
  }
  metadata_ = std::move(header.metadata);
  tensors_.reserve(header.tensors.size());
  const std::byte* data = mapping_->bytes() + kLengthBytes + headerBytes;
  for (HeaderTensor& tensor : header.tensors) {
    index_.emplace(tensor.name, tensors_.size());
    tensors_.push_back(TensorEntry{std::move(tensor.name), tensor.dtype, std::move(tensor.shape), data + tensor.begin,
                                   static_cast<int64_t>(tensor.end - tensor.begin)});
  }
}

const TensorEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const std::vector<int64_t>* SafetensorsFile::findShape(const std::string& name) const {
  const TensorEntry* tensor = find(name);
  return tensor == nullptr ? nullptr : &tensor->shape;
}

const TensorEntry& SafetensorsFile::get(const std::string& name) const {
  shapeOf(name);  // throws where there is none
  return *find(name);
}

std::vector<float> SafetensorsFile::floats(const std::string& name) const {
  const TensorEntry& tensor = get(name);
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  if (!readAll(tensor, values.data())) fail(notReal(tensor));
  return values;
}

std::vector<double> SafetensorsFile::doubles(const std::string& name) const {
  const TensorEntry& tensor = get(name);
  std::vector<double> values(static_cast<size_t>(tensor.count()));
  if (!readAll(tensor, values.data())) fail(notReal(tensor));
  return values;
}

std::vector<int32_t> SafetensorsFile::ints(const std::string& name) const {
  const TensorEntry& tensor = get(name);
  std::vector<int32_t> values(static_cast<size_t>(tensor.count()));
  int64_t bad = -1;
  switch (tensor.dtype) {
    case DType::kI64:
      bad = readIntegers<int64_t>(tensor, values.data());
      break;
    case DType::kI32:
      bad = readIntegers<int32_t>(tensor, values.data());
      break;
    case DType::kI16:
      bad = readIntegers<int16_t>(tensor, values.data());
      break;
    case DType::kI8:
      bad = readIntegers<int8_t>(tensor, values.data());
      break;
    case DType::kU64:
      bad = readIntegers<uint64_t>(tensor, values.data());
      break;
    case DType::kU32:
      bad = readIntegers<uint32_t>(tensor, values.data());
      break;
    case DType::kU16:
      bad = readIntegers<uint16_t>(tensor, values.data());
      break;
    case DType::kU8:
      bad = readIntegers<uint8_t>(tensor, values.data());
      break;
    default:
      fail("tensor " + quoteName(name) + ": expected an integer dtype, got " + dtypeName(tensor.dtype));
  }
  if (bad >= 0) {
    fail("tensor " + quoteName(name) + ": expected values that fit 32 bits, got a larger one at element " +
         std::to_string(bad));
  }
  return values;
}

const TensorEntry& SafetensorsFile::checkShape(const std::string& name, std::span<const int64_t> shape) const {
  const TensorEntry& tensor = get(name);
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
    const std::string got =
        tensor.shape.size() > 16 ? std::to_string(tensor.shape.size()) + " dimensions" : shapeText(tensor.shape);
    fail("tensor " + quoteName(name) + ": expected " + shapeText(shape) + ", got " + got);
  }
  return tensor;
}

void SafetensorsFile::readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const {
  const TensorEntry& tensor = checkShape(name, shape);
  if (!isReal(tensor.dtype)) fail(notReal(tensor));
  const int64_t count = tensor.count(), size = dtypeSize(tensor.dtype);
  if (observer_) observer_->begin();
  for (int64_t first = 0; first < count; first += kPiece) {
    checkCancelled();
    const int64_t n = std::min(kPiece, count - first);
    const std::byte* from = tensor.data + first * size;
    readReals(tensor.dtype, from, 1, n, out + first);
    // the copy has the same bytes, and is nearer
    const void* copy = tensor.dtype == DType::kF32 ? static_cast<const void*>(out + first) : from;
    if (observer_) observer_->update(copy, static_cast<size_t>(n * size));
    const std::string bad = notFinite(out + first, n, first);
    if (!bad.empty()) fail("tensor " + quoteName(name) + ": " + bad);
  }
  if (observer_) observer_->end(tensor);
}

}  // namespace ddad
