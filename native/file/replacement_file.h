#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace ddad {

/// A new file beside `path` that takes its place on commit() and is removed otherwise: at `path` there is either the
/// old content or the whole new one, also after a crash. A symbolic link at `path` is replaced, not followed. Every
/// member throws ERR_FILE_WRITE, with the system's reason, when it fails.
class ReplacementFile {
 public:
  explicit ReplacementFile(std::string path);
  ~ReplacementFile();
  ReplacementFile(const ReplacementFile&) = delete;
  ReplacementFile& operator=(const ReplacementFile&) = delete;

  void write(const void* data, size_t bytes);
  /// Writes over bytes that have been written.
  void overwrite(int64_t at, const void* data, size_t bytes);
  /// Bytes written so far.
  int64_t size() const { return size_; }
  /// Syncs the file, so that commit() has little left to do.
  void flush();
  void commit();

 private:
  void syncFolder();

  std::string path_, temporary_;
  int64_t size_ = 0;
  int fd_ = -1;
  bool renamed_ = false;
};

}  // namespace ddad
