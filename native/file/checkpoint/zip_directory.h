#pragma once
// The directory of a zip archive whose entries are stored without compression, as PyTorch writes them.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>

namespace ddad {

class ZipDirectory {
 public:
  /// Whether a file begins like a zip archive.
  static bool looksLike(std::string_view bytes) { return bytes.substr(0, 4) == std::string_view("PK\3\4", 4); }

  /// Reads the directory at the end of `bytes`, an archive as a whole, zip64 or not. Throws CheckpointError.
  explicit ZipDirectory(std::string_view bytes);

  /// The bytes of the entry of that name; nothing when there is none. Throws CheckpointError when it is compressed,
  /// encrypted, or not within the archive.
  std::optional<std::string_view> find(std::string_view name) const;

  /// What stands before `/file` in the name of the one entry `<folder>/file` of the archive; nothing without one.
  std::optional<std::string_view> folderOf(std::string_view file) const;

 private:
  struct Entry {
    uint64_t header, size;  // where its own header lies; bytes
    bool stored;
  };
  struct End {
    uint64_t entries, size, offset;
  };
  End findEnd() const;
  void readEntries(const End& end);

  std::string_view bytes_;
  std::unordered_map<std::string_view, Entry> entries_;
};

}  // namespace ddad
