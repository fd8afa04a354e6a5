#include "device/choices.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kFormatVersion = 1;
constexpr off_t kLargest = off_t{1} << 20;  // bytes of a table: a thousand choices take a tenth of it
constexpr std::chrono::milliseconds kLockWait{100}, kLockPause{5};

class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  Descriptor(Descriptor&& from) noexcept : value_(std::exchange(from.value_, -1)) {}
  Descriptor& operator=(Descriptor&& from) noexcept {
    std::swap(value_, from.value_);
    return *this;
  }
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  explicit operator bool() const { return value_ >= 0; }
  int get() const { return value_; }

 private:
  int value_;
};

/// Why something that is open is not ours alone; empty where it is.
std::string notOurs(int descriptor, bool folder) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) return std::strerror(errno);
  if (folder ? !S_ISDIR(status.st_mode) : !S_ISREG(status.st_mode)) return folder ? "no folder" : "no regular file";
  if (status.st_uid != ::geteuid()) return "of another user";
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) return "writable by others";
  return "";
}

/// The table's folder, the files in which are then reached through this descriptor alone.
struct CacheFolder {
  explicit CacheFolder(const std::string& path) : name(fs::path(path).filename()) {
    const fs::path folder = fs::path(path).parent_path();
    std::error_code failed;
    fs::create_directories(folder.parent_path(), failed);
    ::mkdir(folder.c_str(), 0700);  // there mostly is one
    descriptor = Descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    problem = descriptor ? notOurs(descriptor.get(), true) : std::strerror(errno);
    if (!problem.empty()) problem = folder.string() + ": " + problem;
  }
  Descriptor open(const std::string& file, int flags) const {
    return Descriptor(::openat(descriptor.get(), file.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  }
  std::string name;
  Descriptor descriptor;
  std::string problem;  // empty where the folder can be used
};

/// The text of the table; empty where there is none, or it is too long to be one. `problem` says what keeps the name
/// from being a table's.
std::string readText(const CacheFolder& folder, std::string& problem) {
  const Descriptor file = folder.open(folder.name, O_RDONLY);
  if (!file) {
    if (errno != ENOENT) problem = errno == ELOOP ? "a symbolic link" : std::strerror(errno);
    return "";
  }
  problem = notOurs(file.get(), false);
  struct stat status{};
  if (!problem.empty() || ::fstat(file.get(), &status) != 0 || status.st_size > kLargest) return "";
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    length += static_cast<size_t>(got);
  }
  text.resize(length);
  return text;
}

/// The whole document; an empty one where there is none or it is damaged.
json parseDocument(const std::string& text) {
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
Descriptor openLock(const CacheFolder& folder) {
  Descriptor file = folder.open(folder.name + ".lock", O_CREAT | O_RDWR);
  if (file && !notOurs(file.get(), false).empty()) return Descriptor();
  return file;
}

/// False where another process does not give it back in time.
bool lock(const Descriptor& file) {
  const auto end = Clock::now() + kLockWait;
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EINTR && (errno != EWOULDBLOCK || Clock::now() >= end)) return false;
    std::this_thread::sleep_for(kLockPause);
  }
  return true;
}

/// While the lock is held, so that what has the temporary name was left by a process that is gone.
bool writeDocument(const CacheFolder& folder, const json& document) {
  const std::string temporary = folder.name + ".tmp";
  ::unlinkat(folder.descriptor.get(), temporary.c_str(), 0);
  const Descriptor file = folder.open(temporary, O_CREAT | O_EXCL | O_WRONLY);
  const std::string text = document.dump(1, ' ', false, json::error_handler_t::replace) + '\n';
  size_t length = 0;
  while (file && length < text.size()) {
    const ssize_t written = ::write(file.get(), text.data() + length, text.size() - length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    length += static_cast<size_t>(written);
  }
  const int at = folder.descriptor.get();
  if (file && length == text.size() && ::renameat(at, temporary.c_str(), at, folder.name.c_str()) == 0) return true;
  if (file) ::unlinkat(at, temporary.c_str(), 0);
  return false;
}

std::string cachePath() {
  const char* folder = std::getenv("DDAD_CACHE_DIR");
  if (folder && *folder) return std::string(folder) + "/kernels.json";
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
  const CacheFolder folder(path_);
  problem_ = folder.problem;
  if (problem_.empty()) {
    std::string inTheWay;
    table_ = tableOf(parseDocument(readText(folder, inTheWay)), processor_);
    if (inTheWay.empty() && !openLock(folder)) inTheWay = "its lock cannot be opened";
    if (!inTheWay.empty()) problem_ = path_ + ": " + inTheWay;
  }
  if (problem_.empty()) return;
  path_.clear();  // no say over what other processes choose: then nothing is chosen
  table_.clear();
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

bool Choices::keeps() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return !path_.empty() && !gaveUp_;
}

std::optional<std::string> Choices::keep(const std::string& key, const std::string& value) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (path_.empty() || gaveUp_) return std::nullopt;
  gaveUp_ = true;  // unless all goes well: a table that is stuck must not cost time at every shape
  const CacheFolder folder(path_);
  if (!folder.problem.empty()) return std::nullopt;
  const Descriptor file = openLock(folder);
  if (!file || !lock(file)) return std::nullopt;
  std::string inTheWay;
  json document = parseDocument(readText(folder, inTheWay));
  if (!inTheWay.empty()) return std::nullopt;
  Table table = tableOf(document, processor_);
  if (table.emplace(key, value).second) {
    document["processors"][processor_] = table;
    if (!writeDocument(folder, document)) return std::nullopt;
  }
  gaveUp_ = false;
  table_ = std::move(table);
  return table_.at(key);
}

}  // namespace ddad
