#pragma once
#include <cstddef>
#include <string>

namespace ddad {

/// A regular file, mapped read-only. A file that another program shortens while it is mapped raises SIGBUS on access,
/// as with any mapping.
class MappedFile {
 public:
  /// Throws ERR_FILE_READ when the file is missing, unreadable or not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Null when the file is empty.
  const std::byte* bytes() const { return bytes_; }
  size_t size() const { return size_; }

  /// Lets go of the memory of these bytes of the mapping, which are read from the file again when they are needed: so
  /// that going through a large file takes no more memory than a part of it.
  void release(const std::byte* from, size_t bytes) const;

 private:
  const std::byte* bytes_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ddad
