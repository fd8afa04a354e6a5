#include "file/replacement_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace ddad {
namespace {

[[noreturn]] void failWrite(const std::string& path, const std::string& reason) {
  throw Error("ERR_FILE_WRITE", "cannot write " + path + ": " + reason);
}

std::string folderOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Begins a temporary name beside `path`, as src/files/leftovers.ts knows it: the next run removes what a killed one
/// left.
std::string temporaryStem(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const size_t begin = slash == std::string::npos ? 0 : slash + 1;
  std::string name = path.substr(begin);
  if (name.size() > 100) {  // long names stay below the 255 bytes that file systems allow
    size_t end = 100;
    while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) --end;
    name.resize(end);
  }
  return path.substr(0, begin) + "." + name + ".ddad-" + std::to_string(::getpid()) + "-";
}

}  // namespace

ReplacementFile::ReplacementFile(std::string path) : path_(std::move(path)) {
  static std::atomic<uint64_t> counter{0};
  struct stat old{};
  if (::stat(path_.c_str(), &old) == 0 && !S_ISREG(old.st_mode)) {
    failWrite(path_, S_ISDIR(old.st_mode) ? std::strerror(EISDIR) : "expected a regular file, got a pipe or device");
  }
  // A killed process with our number may have left its file, hence the retries.
  for (int attempt = 0; attempt < 100; ++attempt) {
    temporary_ = temporaryStem(path_) + std::to_string(counter.fetch_add(1)) + ".tmp";
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ >= 0 || errno != EEXIST) break;
  }
  if (fd_ < 0) failWrite(path_, std::strerror(errno));
}

ReplacementFile::~ReplacementFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!renamed_) ::unlink(temporary_.c_str());
}

void ReplacementFile::write(const void* data, size_t bytes) {
  constexpr size_t kChunk = size_t{64} << 20;  // systems limit a single write, the lowest at 2 GiB
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_, next, std::min(bytes, kChunk));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) failWrite(path_, std::strerror(errno));
    if (written == 0) failWrite(path_, std::strerror(ENOSPC));
    next += written;
    bytes -= static_cast<size_t>(written);
    size_ += written;
  }
}

void ReplacementFile::overwrite(int64_t at, const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd_, next, bytes, at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) failWrite(path_, std::strerror(errno));
    if (written == 0) failWrite(path_, std::strerror(ENOSPC));
    next += written;
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void ReplacementFile::flush() {
  while (::fsync(fd_) != 0) {
    if (errno != EINTR) failWrite(path_, std::strerror(errno));
  }
}

void ReplacementFile::commit() {
  flush();
  // Linux frees the descriptor also when close fails, so it must not be closed again.
  const int closed = ::close(std::exchange(fd_, -1));
  if (closed != 0 && errno != EINTR) failWrite(path_, std::strerror(errno));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) failWrite(path_, std::strerror(errno));
  renamed_ = true;
  syncFolder();
}

/// Makes the rename last. Folders that may not be read, or file systems that cannot sync one, are no error.
void ReplacementFile::syncFolder() {
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

}  // namespace ddad
