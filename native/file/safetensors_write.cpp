#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>

#include "file/safetensors.h"
#include "file/safetensors_header.h"
#include "nlohmann/json.hpp"
#include "tensor/error.h"

namespace ddad {
namespace {

[[noreturn]] void failWrite(const std::string& path, const std::string& reason) {
  throw Error("ERR_FILE_WRITE", "cannot write " + path + ": " + reason);
}

[[noreturn]] void failArgument(const std::string& path, const std::string& what) {
  throw Error("ERR_ARGUMENT", "cannot write " + path + ": " + what);
}

int64_t checkedBytes(const std::string& path, const TensorToWrite& tensor) {
  const int64_t bytes = shapeBytes(tensor.shape, tensor.dtype);
  const std::string where = "tensor " + quoteName(tensor.name);
  if (bytes < 0) failArgument(path, where + ": expected a shape below 2^63 bytes, got " + shapeText(tensor.shape));
  return bytes;
}

// Written by hand: an object of the JSON library would sort the tensors or search them one by one.
std::string headerText(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const std::vector<TensorToWrite>& tensors, int64_t& dataBytes) {
  std::string text = "{";
  std::unordered_set<std::string> names{"__metadata__"};
  int64_t offset = 0;
  try {
    if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
    for (const TensorToWrite& tensor : tensors) {
      if (!names.insert(tensor.name).second) {
        failArgument(path, "expected distinct tensor names other than __metadata__, got " + quoteName(tensor.name));
      }
      const int64_t begin = offset;
      if (__builtin_add_overflow(offset, checkedBytes(path, tensor), &offset)) {
        failArgument(path, "expected tensors below 2^63 bytes together, got more");
      }
      if (text.size() > 1) text += ',';
      text += nlohmann::json(tensor.name).dump() + ":{\"dtype\":\"" + dtypeName(tensor.dtype) +
              "\",\"shape\":" + nlohmann::json(tensor.shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) +
              "," + std::to_string(offset) + "]}";
    }
  } catch (const nlohmann::json::exception&) {
    failArgument(path, "expected tensor names and metadata in UTF-8");
  }
  text += '}';
  dataBytes = offset;
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data start 8-byte aligned: the length before it has 8 bytes
  if (text.size() > SafetensorsFile::kMaxHeaderBytes) {
    failArgument(path, "expected a header of at most " + std::to_string(SafetensorsFile::kMaxHeaderBytes) +
                           " bytes, got " + std::to_string(text.size()));
  }
  return text;
}

std::string folderOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

// A new file beside `path` that replaces it on commit() and is removed otherwise.
class SafetensorsWriter::Replacement {
 public:
  explicit Replacement(std::string path) : path_(std::move(path)) {
    static std::atomic<uint64_t> counter{0};
    struct stat old{};
    if (::stat(path_.c_str(), &old) == 0 && !S_ISREG(old.st_mode)) {
      failWrite(path_, S_ISDIR(old.st_mode) ? std::strerror(EISDIR) : "expected a regular file, got a pipe or device");
    }
    // A killed process with our number may have left its file, hence the retries.
    for (int attempt = 0; attempt < 100; ++attempt) {
      temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
      fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd_ >= 0 || errno != EEXIST) break;
    }
    if (fd_ < 0) failWrite(path_, std::strerror(errno));
  }
  ~Replacement() {
    if (fd_ >= 0) ::close(fd_);
    if (!renamed_) ::unlink(temporary_.c_str());
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  void write(const void* data, size_t bytes) {
    constexpr size_t kChunk = size_t{64} << 20;  // systems limit a single write, the lowest at 2 GiB
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(fd_, next, std::min(bytes, kChunk));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) failWrite(path_, std::strerror(errno));
      if (written == 0) failWrite(path_, std::strerror(ENOSPC));
      next += written;
      bytes -= static_cast<size_t>(written);
    }
  }

  void commit() {
    sync(fd_);
    // Linux frees the descriptor also when close fails, so it must not be closed again.
    const int closed = ::close(std::exchange(fd_, -1));
    if (closed != 0 && errno != EINTR) failWrite(path_, std::strerror(errno));
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) failWrite(path_, std::strerror(errno));
    renamed_ = true;
    syncFolder();
  }

 private:
  void sync(int fd) {
    while (::fsync(fd) != 0) {
      if (errno != EINTR) failWrite(path_, std::strerror(errno));
    }
  }

  // Makes the rename last. Folders that may not be read, or file systems that cannot sync one, are no error.
  void syncFolder() {
    const int folder = ::open(folderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    int result = 0;
    do {
      result = ::fsync(folder);
    } while (result != 0 && errno == EINTR);
    const int reason = result == 0 ? 0 : errno;
    ::close(folder);
    const bool unsupported = reason == EINVAL || reason == ENOTSUP || reason == EBADF;
    if (reason != 0 && !unsupported) failWrite(path_, std::strerror(reason));
  }

  std::string path_, temporary_;
  int fd_ = -1;
  bool renamed_ = false;
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::map<std::string, std::string>& metadata,
                                     const std::vector<TensorToWrite>& tensors)
    : path_(path) {
  const std::string header = headerText(path, metadata, tensors, missing_);
  const uint64_t headerBytes = header.size();
  file_ = std::make_unique<Replacement>(path);
  file_->write(&headerBytes, sizeof(headerBytes));
  file_->write(header.data(), header.size());
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const void* data, size_t bytes) {
  missing_ -= static_cast<int64_t>(bytes);
  if (missing_ < 0) failArgument(path_, "got " + std::to_string(-missing_) + " bytes more than the tensors have");
  file_->write(data, bytes);
}

void SafetensorsWriter::commit() {
  if (missing_ != 0) failArgument(path_, "expected " + std::to_string(missing_) + " more bytes of data");
  file_->commit();
}

void writeSafetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                      const std::vector<TensorToWrite>& tensors) {
  for (const TensorToWrite& tensor : tensors) {
    if (checkedBytes(path, tensor) > 0 && tensor.data == nullptr)
      failArgument(path, "tensor " + quoteName(tensor.name) + ": expected data, got null");
  }
  SafetensorsWriter file(path, metadata, tensors);
  for (const TensorToWrite& tensor : tensors) {
    file.write(tensor.data, static_cast<size_t>(shapeBytes(tensor.shape, tensor.dtype)));
  }
  file.commit();
}

}  // namespace ddad
