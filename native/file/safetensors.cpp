#include "file/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "file/safetensors_header.h"
#include "tensor/error.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian and read in place");

namespace ddad {
namespace {

constexpr size_t kLengthBytes = sizeof(uint64_t);

[[noreturn]] void failRead(const std::string& path, const std::string& reason) {
  throw Error("ERR_FILE_READ", "cannot read " + path + ": " + reason);
}

float halfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  const uint32_t fraction = half & 0x3FFu;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1F ? 0xFFu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

float toReal(float value) { return value; }
double toReal(double value) { return value; }

struct Half {
  uint16_t bits;
};
struct BrainHalf {
  uint16_t bits;
};
float toReal(Half value) { return halfToFloat(value.bits); }
float toReal(BrainHalf value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

template <class Stored, class Out>
void convertReals(const TensorEntry& tensor, Out* out) {
  const int64_t count = tensor.count();
  if constexpr (std::is_same_v<Stored, Out>) {
    if (count > 0) std::memcpy(out, tensor.data, static_cast<size_t>(tensor.bytes));
  } else {
    for (int64_t i = 0; i < count; ++i) {
      Stored stored;
      std::memcpy(&stored, tensor.data + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
      out[i] = static_cast<Out>(toReal(stored));
    }
  }
}

// False when the tensor holds no reals.
template <class Out>
bool readReals(const TensorEntry& tensor, Out* out) {
  switch (tensor.dtype) {
    case DType::kF64:
      convertReals<double>(tensor, out);
      return true;
    case DType::kF32:
      convertReals<float>(tensor, out);
      return true;
    case DType::kF16:
      convertReals<Half>(tensor, out);
      return true;
    case DType::kBF16:
      convertReals<BrainHalf>(tensor, out);
      return true;
    default:
      return false;
  }
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

// Owns the mapped bytes.
class SafetensorsFile::Mapping {
 public:
  explicit Mapping(const std::string& path) {
    // Without O_NONBLOCK opening a pipe would wait for a writer.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) failRead(path, std::strerror(errno));
    struct stat status{};
    if (::fstat(fd, &status) != 0) closeAndFail(fd, path, std::strerror(errno));
    if (S_ISDIR(status.st_mode)) closeAndFail(fd, path, std::strerror(EISDIR));
    if (!S_ISREG(status.st_mode)) closeAndFail(fd, path, "expected a regular file, got a pipe, socket or device");
    if (static_cast<uint64_t>(status.st_size) > std::numeric_limits<size_t>::max()) {
      closeAndFail(fd, path, std::strerror(EFBIG));
    }
    size_ = static_cast<size_t>(status.st_size);
    if (size_ > 0) {  // an empty mapping is an error of its own
      void* bytes = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (bytes == MAP_FAILED) closeAndFail(fd, path, std::strerror(errno));
      bytes_ = static_cast<const std::byte*>(bytes);
    }
    ::close(fd);
  }
  ~Mapping() {
    if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const std::byte* bytes() const { return bytes_; }
  size_t size() const { return size_; }

 private:
  [[noreturn]] static void closeAndFail(int fd, const std::string& path, const char* reason) {
    const std::string text = reason;
    ::close(fd);
    failRead(path, text);
  }

  const std::byte* bytes_ = nullptr;
  size_t size_ = 0;
};

int64_t TensorEntry::count() const {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  return SafetensorsFile(path, std::make_unique<Mapping>(path));
}

SafetensorsFile::SafetensorsFile(std::string path, std::unique_ptr<Mapping> mapping)
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
  Header header;
  try {
    header = parseHeader(std::string_view(text, headerBytes), size - kLengthBytes - headerBytes);
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
  if (!readReals(tensor, values.data())) fail(notReal(tensor));
  return values;
}

std::vector<double> SafetensorsFile::doubles(const std::string& name) const {
  const TensorEntry& tensor = get(name);
  std::vector<double> values(static_cast<size_t>(tensor.count()));
  if (!readReals(tensor, values.data())) fail(notReal(tensor));
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
  if (!readReals(tensor, out)) fail(notReal(tensor));
  const float* end = out + tensor.count();
  const float* bad = std::find_if(static_cast<const float*>(out), end, [](float v) { return !std::isfinite(v); });
  if (bad != end) {
    fail("tensor " + quoteName(name) + ": expected finite values, got " +
         (std::isnan(*bad) ? "NaN"
          : *bad > 0       ? "infinity"
                           : "-infinity") +
         " at element " + std::to_string(bad - out));
  }
}

}  // namespace ddad
