#include "file/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace ddad {
namespace {

[[noreturn]] void failRead(const std::string& path, const std::string& reason) {
  throw Error("ERR_FILE_READ", "cannot read " + path + ": " + reason);
}

[[noreturn]] void closeAndFail(int fd, const std::string& path, const char* reason) {
  const std::string text = reason;
  ::close(fd);
  failRead(path, text);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // Without O_NONBLOCK opening a pipe would wait for a writer, without O_NOCTTY a terminal could become ours.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
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

MappedFile::~MappedFile() {
  if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), size_);
}

void MappedFile::release(const std::byte* from, size_t bytes) const {
  if (bytes == 0) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<size_t>(from - bytes_);
  const size_t first = begin / page * page;  // the mapping is read-only, so pages of others may go, too
  const size_t end = std::min(size_, begin + bytes);
  if (end > first) ::madvise(const_cast<std::byte*>(bytes_) + first, end - first, MADV_DONTNEED);
}

}  // namespace ddad
