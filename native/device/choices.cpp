#include "device/choices.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "file/json_fields.h"
#include "tensor/error.h"

namespace ddad {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int kFormatVersion = 1;

/// The whole document; an empty one where there is none or it is damaged.
json readDocument(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  json document = parseJson(text);
  if (!document.is_object() || !document.contains("formatVersion") || document["formatVersion"] != kFormatVersion ||
      !document.contains("processors") || !document["processors"].is_object())
    document = {{"formatVersion", kFormatVersion}, {"processors", json::object()}};
  return document;
}

std::map<std::string, std::string> tableOf(const json& document, const std::string& processor) {
  std::map<std::string, std::string> table;
  const json& processors = document["processors"];
  if (!processors.contains(processor) || !processors[processor].is_object()) return table;
  for (const auto& [key, value] : processors[processor].items())
    if (value.is_string()) table[key] = value.get<std::string>();
  return table;
}

/// One process at a time reads, adds and writes.
class FileLock {
 public:
  explicit FileLock(const std::string& path)
      : descriptor_(::open((path + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    if (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX) != 0) {
      ::close(descriptor_);
      descriptor_ = -1;
    }
  }
  ~FileLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool held() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

bool writeDocument(const std::string& path, const json& document) {
  const std::string temporary = path + ".tmp";
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << document.dump(1) << '\n';
    file.close();
    if (!file) {
      std::remove(temporary.c_str());
      return false;
    }
  }
  return std::rename(temporary.c_str(), path.c_str()) == 0;
}

std::string cachePath() {
  const char* own = std::getenv("DDAD_CACHE_DIR");
  if (own && *own) return std::string(own) + "/kernels.json";
  const char* shared = std::getenv("XDG_CACHE_HOME");
  if (shared && *shared) return std::string(shared) + "/ddad-native/kernels.json";
  const char* home = std::getenv("HOME");
  return home && *home ? std::string(home) + "/.cache/ddad-native/kernels.json" : "";
}

bool switchedOff() {
  const char* text = std::getenv("DDAD_AUTOTUNE");
  const std::string value = text ? text : "";
  if (!value.empty() && value != "on" && value != "off")
    throw Error("ERR_OPTION", "DDAD_AUTOTUNE: expected on or off, got " + value);
  return value == "off";
}

}  // namespace

Choices::Choices(std::string path, std::string processor) : path_(std::move(path)), processor_(std::move(processor)) {
  if (path_.empty()) return;
  std::error_code failed;
  fs::create_directories(fs::path(path_).parent_path(), failed);
  // no lock, no say over what other processes choose: then nothing is chosen
  if (failed || !FileLock(path_).held())
    path_.clear();
  else
    table_ = tableOf(readDocument(path_), processor_);
}

std::string Choices::defaultPath() { return switchedOff() ? "" : cachePath(); }

size_t Choices::size() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return table_.size();
}

std::optional<std::string> Choices::find(const std::string& key) const {
  const std::lock_guard<std::mutex> guard(mutex_);
  const auto found = table_.find(key);
  return found == table_.end() ? std::nullopt : std::optional<std::string>(found->second);
}

std::optional<std::string> Choices::keep(const std::string& key, const std::string& value) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (path_.empty()) return std::nullopt;
  const FileLock lock(path_);
  if (!lock.held()) return std::nullopt;
  json document = readDocument(path_);
  Table table = tableOf(document, processor_);
  if (table.emplace(key, value).second) {
    document["processors"][processor_] = table;
    if (!writeDocument(path_, document)) return std::nullopt;
  }
  table_ = std::move(table);
  return table_.at(key);
}

}  // namespace ddad
