#include "file/checkpoint/zip_directory.h"

#include <cstring>
#include <string>

#include "file/checkpoint/pickle.h"
#include "file/safetensors_header.h"

namespace ddad {
namespace {

// APPNOTE.TXT of PKWARE, 4.3: sizes of the fixed parts, and where their fields lie.
constexpr size_t kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20, kCentralBytes = 46, kLocalBytes = 30;
constexpr uint32_t kEndMagic = 0x06054b50, kEnd64Magic = 0x06064b50, kLocatorMagic = 0x07064b50,
                   kCentralMagic = 0x02014b50, kLocalMagic = 0x04034b50;
constexpr size_t kLongestComment = 65535;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // a size or offset that stands in the zip64 field
constexpr uint64_t kMaxEntries = 200'000;

[[noreturn]] void fail(const std::string& what) { throw CheckpointError("its zip archive: " + what); }

template <class T>
T field(std::string_view bytes, uint64_t at) {
  T value;
  if (at > bytes.size() || sizeof(T) > bytes.size() - at) fail("a field lies outside of it (the file is truncated)");
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// `size` bytes at `at`, within `bytes`.
std::string_view part(std::string_view bytes, uint64_t at, uint64_t size, const char* what) {
  if (at > bytes.size() || size > bytes.size() - at)
    fail(std::string("expected ") + what + " within it, got " + std::to_string(size) + " bytes at " +
         std::to_string(at) + " of " + std::to_string(bytes.size()) + " (the file is truncated)");
  return bytes.substr(static_cast<size_t>(at), static_cast<size_t>(size));
}

/// Takes from the zip64 field what stands there: the values that are kIn64, in this order.
void readExtra64(std::string_view extra, uint64_t& size, uint64_t& compressed, uint64_t& header) {
  size_t at = 0;
  while (extra.size() - at >= 4) {
    const auto id = field<uint16_t>(extra, at);
    const auto length = field<uint16_t>(extra, at + 2);
    const std::string_view data = part(extra, at + 4, length, "an extra field");
    at += 4 + size_t{length};
    if (id != 1) continue;
    size_t next = 0;
    for (uint64_t* value : {&size, &compressed, &header}) {
      if (*value != kIn64) continue;
      *value = field<uint64_t>(data, next);
      next += 8;
    }
    return;
  }
}

}  // namespace

ZipDirectory::ZipDirectory(std::string_view bytes) : bytes_(bytes) { readEntries(findEnd()); }

ZipDirectory::End ZipDirectory::findEnd() const {
  if (bytes_.size() < kEndBytes) fail("expected a directory at its end (the file is truncated)");
  size_t at = bytes_.size() - kEndBytes;
  const size_t first = at > kLongestComment ? at - kLongestComment : 0;
  while (field<uint32_t>(bytes_, at) != kEndMagic ||
         field<uint16_t>(bytes_, at + 20) != bytes_.size() - at - kEndBytes) {
    if (at == first) fail("expected a directory at its end (the file is truncated)");
    --at;
  }
  End end = {field<uint16_t>(bytes_, at + 10), field<uint32_t>(bytes_, at + 12), field<uint32_t>(bytes_, at + 16)};
  if (at >= kLocatorBytes && field<uint32_t>(bytes_, at - kLocatorBytes) == kLocatorMagic) {
    const auto at64 = field<uint64_t>(bytes_, at - kLocatorBytes + 8);
    const std::string_view end64 = part(bytes_, at64, kEnd64Bytes, "a zip64 directory");
    if (field<uint32_t>(end64, 0) != kEnd64Magic) fail("expected a zip64 directory, got something else");
    end = {field<uint64_t>(end64, 32), field<uint64_t>(end64, 40), field<uint64_t>(end64, 48)};
  }
  return end;
}

void ZipDirectory::readEntries(const End& end) {
  if (end.entries > kMaxEntries) fail("expected at most " + std::to_string(kMaxEntries) + " entries");
  std::string_view rest = part(bytes_, end.offset, end.size, "a directory");
  for (uint64_t i = 0; i < end.entries; ++i) {
    const std::string_view fixed = part(rest, 0, kCentralBytes, "an entry of the directory");
    if (field<uint32_t>(fixed, 0) != kCentralMagic) fail("expected an entry of the directory, got something else");
    const auto flags = field<uint16_t>(fixed, 8), method = field<uint16_t>(fixed, 10);
    uint64_t compressed = field<uint32_t>(fixed, 20), size = field<uint32_t>(fixed, 24);
    const size_t nameBytes = field<uint16_t>(fixed, 28), extraBytes = field<uint16_t>(fixed, 30);
    const size_t commentBytes = field<uint16_t>(fixed, 32);
    uint64_t header = field<uint32_t>(fixed, 42);
    const std::string_view name = part(rest, kCentralBytes, nameBytes, "a name");
    readExtra64(part(rest, kCentralBytes + nameBytes, extraBytes, "an extra field"), size, compressed, header);
    const uint64_t whole = kCentralBytes + nameBytes + extraBytes + commentBytes;
    part(rest, 0, whole, "an entry of the directory");
    rest.remove_prefix(static_cast<size_t>(whole));
    const bool stored = method == 0 && (flags & 1) == 0 && compressed == size;
    if (!entries_.emplace(name, Entry{header, size, stored}).second)
      fail("expected distinct names, got " + quoteName(name) + " twice");
  }
}

std::optional<std::string_view> ZipDirectory::find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  const Entry& entry = found->second;
  if (!entry.stored) fail(quoteName(name) + ": expected an entry that is stored as it is, got a compressed one");
  const std::string_view local = part(bytes_, entry.header, kLocalBytes, "the header of an entry");
  if (field<uint32_t>(local, 0) != kLocalMagic) fail(quoteName(name) + ": expected the header of an entry");
  const uint64_t data = entry.header + kLocalBytes + field<uint16_t>(local, 26) + field<uint16_t>(local, 28);
  return part(bytes_, data, entry.size, "an entry");
}

std::optional<std::string_view> ZipDirectory::folderOf(std::string_view file) const {
  for (const auto& [name, entry] : entries_) {
    const size_t slash = name.find('/');
    if (slash != std::string_view::npos && name.substr(slash + 1) == file) return name.substr(0, slash);
  }
  return std::nullopt;
}

}  // namespace ddad
