#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "file/digest.h"
#include "file/safetensors.h"

namespace ddad {

class ReplacementFile;

/// Writes a safetensors file piece by piece, for tensors that are not in memory as a whole. Its metadata get the digest
/// of the whole (file/digest.h), and lose a signature, which is of another file. The file is written beside
/// `path` under a temporary name, synced and renamed, so `path` holds either its old content or the whole new one, also
/// after a crash. A symbolic link at `path` is replaced, not followed. Without `commit` nothing remains.
///
/// Throws ERR_FILE_WRITE, with the system's reason, when writing fails; an old file is then untouched (but for a
/// failure to sync the folder, which comes after the rename). Throws ERR_ARGUMENT for duplicate or reserved names, text
/// that is not UTF-8, bad shapes, or a header that the reader would refuse.
class SafetensorsWriter {
 public:
  /// Writes the header; the `data` of `tensors` are not looked at.
  SafetensorsWriter(const std::string& path, const std::map<std::string, std::string>& metadata,
                    const std::vector<TensorToWrite>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Appends data of the tensors, in their order and without gaps.
  void write(const void* data, size_t bytes);
  /// Puts the file in its place. Throws ERR_ARGUMENT when data are missing, or came in excess.
  void commit();

 private:
  std::string path_;
  int64_t missing_ = 0;  // bytes of data
  std::unique_ptr<DigestWriter> digest_;
  int64_t digestAt_ = 0;  // in the file
  std::unique_ptr<ReplacementFile> file_;
};

}  // namespace ddad
