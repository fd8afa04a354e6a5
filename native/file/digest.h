#pragma once
// What a safetensors file of ours says of its own bytes, in its metadata, so that every reader of safetensors still
// reads the file. The digest is against damage, and cheap enough for every load: XXH3 over the header and over the
// hashes of the tensors, in the order of their bytes. The digest of the content is against forgers, for signatures:
// BLAKE3 over the whole file. In both the digits of the digest itself and of a signature count as zeros.
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "file/content_hash.h"
#include "file/safetensors.h"

namespace ddad {

constexpr const char* kDigestKey = "digest";
/// Present where the digest is: a damaged name of either does not make a file that has none.
constexpr const char* kDigestAlgorithmKey = "digestAlgorithm";
constexpr const char* kDigestAlgorithm = "xxh3-128";
constexpr const char* kSignatureKey = "signature";
/// SHA-256 of the public key that the signature is for.
constexpr const char* kSignatureKeyKey = "signatureKey";
constexpr size_t kDigestDigits = 32;

/// A part of a text.
struct TextRange {
  size_t begin = 0, end = 0;
};

/// Where the values of these fields of `__metadata__` are in a header's text, without their quotes; in the order in
/// which they come. A field that is not spelled plainly is not found.
std::vector<TextRange> metadataValues(std::string_view header, const std::vector<std::string_view>& names);

/// The digest that a file says it has; empty where it has none. Throws ERR_MODEL_FORMAT where it is of a kind that is
/// not known, or only half there in a file of ours.
std::string statedDigest(const SafetensorsFile& file);

/// The digest that a file has, whatever it states, read in little memory. Throws ERR_ABORTED.
std::string computeDigest(const SafetensorsFile& file);

/// BLAKE3 of its content, likewise.
std::string contentDigest(const SafetensorsFile& file);

/// Compares a whole file with the digest that it states, if any. Throws ERR_MODEL_FORMAT, naming both, where it is not
/// as it was written, and ERR_ABORTED.
void requireDigest(const SafetensorsFile& file);

/// The same while the file is read: as long as it lives, SafetensorsFile::readFloats hands it what it has read, while
/// that is in the cache. One thread only.
class DigestCheck final : public ReadObserver {
 public:
  explicit DigestCheck(const SafetensorsFile& file);
  ~DigestCheck() override;
  DigestCheck(const DigestCheck&) = delete;
  DigestCheck& operator=(const DigestCheck&) = delete;

  /// What the file states; empty where it has none, and then nothing is done.
  const std::string& stated() const { return stated_; }
  /// A tensor's bytes, a piece at a time and in order; `begin` before the first of them, `end` after the last.
  void begin() override { hash_.reset(); }
  void update(const void* data, size_t bytes) override { hash_.update(data, bytes); }
  void end(const TensorEntry& tensor) override { hashes_[&tensor] = hash_.value(); }
  /// Hashes what has not been read, and compares. Throws as requireDigest does.
  void finish();
  /// The same where reading has failed with the exception at hand, which is thrown again unless damage is the reason.
  [[noreturn]] void rethrowUnlessDamaged();

 private:
  const SafetensorsFile& file_;
  const std::string stated_;
  DamageHash hash_;
  std::map<const TensorEntry*, DamageHash::Value> hashes_;
};

/// The digest of a file that is being written.
class DigestWriter {
 public:
  /// `header`: with its length before it, and zeros for the digits.
  DigestWriter(std::string_view header, std::vector<size_t> tensorBytes);
  /// Bytes of the tensors, in their order.
  void update(const void* data, size_t bytes);
  /// Once all of them have come.
  std::string digest() const;

 private:
  void skipEmpty();

  DamageHash all_, tensor_;
  std::vector<size_t> missing_;
  size_t at_ = 0;
};

}  // namespace ddad
