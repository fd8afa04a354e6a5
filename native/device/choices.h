#pragma once
// What was measured on this processor or GPU, kept in a file: every process on the machine takes the same choice, so
// results stay the same, bit for bit, from one run to the next.
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace ddad {

class Choices {
 public:
  /// `path` is the file, made when the first choice is kept; `processor` says whose choices are meant. An empty path,
  /// or one that cannot be written, leaves the table unusable; so does a folder that is not this user's alone, and
  /// anything but a file of this user's there, none of which is touched. A file that is damaged, or too long for a
  /// table, counts as empty and is replaced.
  Choices(std::string path, std::string processor);

  /// The file of this user: kernels.json in DDAD_CACHE_DIR, else in ddad-native in XDG_CACHE_HOME or ~/.cache. Empty
  /// with DDAD_AUTOTUNE=off; any other value of it but "on" is ERR_OPTION.
  static std::string defaultPath();
  /// Those of this processor in that file.
  static Choices& ofThisProcessor();

  bool usable() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  /// Why a table with a path is not usable; empty otherwise.
  const std::string& problem() const { return problem_; }
  /// Whether what is measured can be kept: another process may hold the table's lock for good.
  bool keeps() const;
  size_t size() const;
  std::optional<std::string> find(const std::string& key) const;
  /// Keeps `value` for `key`, unless another process was first. Returns what holds from now on; nothing where the file
  /// could not be written, or its lock was not to be had within a tenth of a second.
  std::optional<std::string> keep(const std::string& key, const std::string& value);

 private:
  using Table = std::map<std::string, std::string>;
  std::string path_, processor_, problem_;
  bool gaveUp_ = false;
  mutable std::mutex mutex_;
  Table table_;
};

}  // namespace ddad
