#include "file/digest.h"

#include <algorithm>
#include <exception>

#include "base/cancel.h"
#include "base/error.h"
#include "file/safetensors_header.h"

namespace ddad {
namespace {

constexpr size_t kPiece = size_t{1} << 20;  // between two looks at who wants to stop
constexpr size_t kLengthBytes = 8;

std::string textOf(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? std::string() : found->second;
}

bool isDigest(const std::string& text) {
  return text.size() == kDigestDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

[[noreturn]] void refuse(const SafetensorsFile& file, const std::string& what) {
  throw Error("ERR_MODEL_FORMAT", file.path() + ": " + what);
}

/// The header and the length before it, with zeros for the digits that do not count.
std::string blankedHeader(const SafetensorsFile& file) {
  std::string text(reinterpret_cast<const char*>(file.mapping().bytes()), kLengthBytes + file.headerText().size());
  for (const TextRange& range : metadataValues(file.headerText(), {kDigestKey, kSignatureKey}))
    std::fill(text.begin() + static_cast<std::ptrdiff_t>(kLengthBytes + range.begin),
              text.begin() + static_cast<std::ptrdiff_t>(kLengthBytes + range.end), '0');
  return text;
}

/// Hashes bytes of the file; their memory is let go, so that going through a large file takes little of it.
template <class Hash>
void hashBytes(const SafetensorsFile& file, const std::byte* from, size_t bytes, Hash& hash) {
  for (size_t at = 0; at < bytes; at += kPiece) {
    checkCancelled();
    const size_t n = std::min(kPiece, bytes - at);
    hash.update(from + at, n);
    file.mapping().release(from + at, n);
  }
}

DamageHash::Value hashOf(const SafetensorsFile& file, const TensorEntry& tensor) {
  DamageHash hash;
  hashBytes(file, tensor.data, static_cast<size_t>(tensor.bytes), hash);
  return hash.value();
}

/// Of the header and of what `hashOf(tensor)` gives.
template <class HashOf>
std::string digestOf(const SafetensorsFile& file, const HashOf& hashOf) {
  DamageHash all;
  const std::string header = blankedHeader(file);
  all.update(header.data(), header.size());
  for (const TensorEntry& tensor : file.tensors()) {
    if (tensor.bytes == 0) continue;
    const DamageHash::Value value = hashOf(tensor);
    all.update(value.data(), value.size());
  }
  return hexOf(all.value());
}

void compare(const SafetensorsFile& file, const std::string& stated, const std::string& computed) {
  if (computed != stated)
    refuse(file, "expected the digest " + stated + ", which it was written with, got " + computed +
                     ": the file is damaged, or another program has changed it");
}

}  // namespace

std::vector<TextRange> metadataValues(std::string_view header, const std::vector<std::string_view>& names) {
  std::vector<TextRange> ranges;
  std::string_view key, section;
  int depth = 0;
  bool value = false;
  for (size_t i = 0; i < header.size(); ++i) {
    switch (header[i]) {
      case '"': {
        const size_t begin = ++i;
        while (i < header.size() && header[i] != '"') i += header[i] == '\\' ? 2 : 1;
        if (i >= header.size()) return ranges;
        const std::string_view text = header.substr(begin, i - begin);
        if (!value)
          key = text;
        else if (depth == 2 && section == "__metadata__" && std::find(names.begin(), names.end(), key) != names.end())
          ranges.push_back({begin, i});
        break;
      }
      case '{':
        if (++depth == 2) section = key;
        value = false;
        break;
      case '}':
        --depth;
        value = false;
        break;
      case ':':
        value = true;
        break;
      case ',':
        value = false;
        break;
      default:
        break;
    }
  }
  return ranges;
}

std::string statedDigest(const SafetensorsFile& file) {
  const bool ours = textOf(file, "format") == "ddad-native";
  const std::string digest = textOf(file, kDigestKey), algorithm = textOf(file, kDigestAlgorithmKey);
  if (algorithm == kDigestAlgorithm && isDigest(digest)) {
    const size_t fields = 1 + file.metadata().count(kSignatureKey);
    if (metadataValues(file.headerText(), {kDigestKey, kSignatureKey}).size() != fields)
      refuse(file, "expected its digest spelled plainly in the metadata, got other spelling");
    return digest;
  }
  if (!ours) return "";  // fields of these names mean nothing in files of others
  if (file.metadata().contains(kDigestKey) || file.metadata().contains(kDigestAlgorithmKey))
    refuse(file, "expected a digest of " + std::to_string(kDigestDigits) + " digits with its algorithm, " +
                     kDigestAlgorithm + ", got " + quoteName(digest) + " of " + quoteName(algorithm));
  if (file.metadata().contains(kSignatureKey)) refuse(file, "expected a digest beside its signature, got none");
  return "";
}

std::string computeDigest(const SafetensorsFile& file) {
  return digestOf(file, [&](const TensorEntry& tensor) { return hashOf(file, tensor); });
}

std::string contentDigest(const SafetensorsFile& file) {
  ContentHash hash;
  const std::string header = blankedHeader(file);
  hash.update(header.data(), header.size());
  hashBytes(file, file.mapping().bytes() + header.size(), file.mapping().size() - header.size(), hash);
  return hash.hex();
}

void requireDigest(const SafetensorsFile& file) {
  const std::string stated = statedDigest(file);
  if (!stated.empty()) compare(file, stated, computeDigest(file));
}

DigestCheck::DigestCheck(const SafetensorsFile& file) : file_(file), stated_(statedDigest(file)) {
  if (!stated_.empty()) file.observe(this);
}

DigestCheck::~DigestCheck() { file_.observe(nullptr); }

void DigestCheck::finish() {
  if (stated_.empty()) return;
  compare(file_, stated_, digestOf(file_, [&](const TensorEntry& tensor) {
            const auto known = hashes_.find(&tensor);
            return known == hashes_.end() ? hashOf(file_, tensor) : known->second;
          }));
}

void DigestCheck::rethrowUnlessDamaged() {
  const std::exception_ptr reason = std::current_exception();
  finish();
  std::rethrow_exception(reason);
}

DigestWriter::DigestWriter(std::string_view header, std::vector<size_t> tensorBytes)
    : missing_(std::move(tensorBytes)) {
  all_.update(header.data(), header.size());
  skipEmpty();
}

void DigestWriter::skipEmpty() {
  while (at_ < missing_.size() && missing_[at_] == 0) ++at_;
}

void DigestWriter::update(const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0 && at_ < missing_.size()) {
    const size_t n = std::min(bytes, missing_[at_]);
    tensor_.update(from, n);
    from += n;
    bytes -= n;
    missing_[at_] -= n;
    if (missing_[at_] > 0) continue;
    const DamageHash::Value value = tensor_.value();
    all_.update(value.data(), value.size());
    tensor_.reset();
    skipEmpty();
  }
}

std::string DigestWriter::digest() const { return hexOf(all_.value()); }

}  // namespace ddad
