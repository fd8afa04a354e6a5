#include <cstdint>
#include <string>
#include <unordered_set>

#include "base/error.h"
#include "file/replacement_file.h"
#include "file/safetensors_header.h"
#include "file/safetensors_writer.h"
#include "nlohmann/json.hpp"

namespace ddad {
namespace {

[[noreturn]] void failArgument(const std::string& path, const std::string& what) {
  throw Error("ERR_ARGUMENT", "cannot write " + path + ": " + what);
}

int64_t checkedBytes(const std::string& path, const TensorToWrite& tensor) {
  const int64_t bytes = shapeBytes(tensor.shape, tensor.dtype);
  const std::string where = "tensor " + quoteName(tensor.name);
  if (bytes < 0) failArgument(path, where + ": expected a shape below 2^63 bytes, got " + shapeText(tensor.shape));
  return bytes;
}

// Written by hand: an object of the JSON library would sort the tensors or search them one by one.
std::string headerText(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const std::vector<TensorToWrite>& tensors, int64_t& dataBytes) {
  std::string text = "{";
  std::unordered_set<std::string> names{"__metadata__"};
  int64_t offset = 0;
  try {
    if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
    for (const TensorToWrite& tensor : tensors) {
      if (!names.insert(tensor.name).second) {
        failArgument(path, "expected distinct tensor names other than __metadata__, got " + quoteName(tensor.name));
      }
      const int64_t begin = offset;
      if (__builtin_add_overflow(offset, checkedBytes(path, tensor), &offset)) {
        failArgument(path, "expected tensors below 2^63 bytes together, got more");
      }
      if (text.size() > 1) text += ',';
      text += nlohmann::json(tensor.name).dump() + ":{\"dtype\":\"" + dtypeName(tensor.dtype) +
              "\",\"shape\":" + nlohmann::json(tensor.shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) +
              "," + std::to_string(offset) + "]}";
    }
  } catch (const nlohmann::json::exception&) {
    failArgument(path, "expected tensor names and metadata in UTF-8");
  }
  text += '}';
  dataBytes = offset;
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data start 8-byte aligned: the length before it has 8 bytes
  if (text.size() > SafetensorsFile::kMaxHeaderBytes) {
    failArgument(path, "expected a header of at most " + std::to_string(SafetensorsFile::kMaxHeaderBytes) +
                           " bytes, got " + std::to_string(text.size()));
  }
  return text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::map<std::string, std::string>& metadata,
                                     const std::vector<TensorToWrite>& tensors)
    : path_(path) {
  std::map<std::string, std::string> texts = metadata;
  texts.erase(kSignatureKey);
  texts[kDigestAlgorithmKey] = kDigestAlgorithm;
  texts[kDigestKey] = std::string(kDigestDigits, '0');  // until it is known
  const std::string header = headerText(path, texts, tensors, missing_);
  const uint64_t headerBytes = header.size();
  const std::string begin = std::string(reinterpret_cast<const char*>(&headerBytes), sizeof(headerBytes)) + header;
  digestAt_ = static_cast<int64_t>(sizeof(headerBytes) + metadataValues(header, {kDigestKey}).at(0).begin);
  std::vector<size_t> bytes;
  for (const TensorToWrite& tensor : tensors)
    bytes.push_back(static_cast<size_t>(shapeBytes(tensor.shape, tensor.dtype)));
  digest_ = std::make_unique<DigestWriter>(begin, std::move(bytes));
  file_ = std::make_unique<ReplacementFile>(path);
  file_->write(begin.data(), begin.size());
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const void* data, size_t bytes) {
  missing_ -= static_cast<int64_t>(bytes);
  if (missing_ < 0) failArgument(path_, "got " + std::to_string(-missing_) + " bytes more than the tensors have");
  digest_->update(data, bytes);
  file_->write(data, bytes);
}

void SafetensorsWriter::commit() {
  if (missing_ != 0) failArgument(path_, "expected " + std::to_string(missing_) + " more bytes of data");
  const std::string digest = digest_->digest();
  file_->overwrite(digestAt_, digest.data(), digest.size());
  file_->commit();
}

void writeSafetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                      const std::vector<TensorToWrite>& tensors) {
  for (const TensorToWrite& tensor : tensors) {
    if (checkedBytes(path, tensor) > 0 && tensor.data == nullptr)
      failArgument(path, "tensor " + quoteName(tensor.name) + ": expected data, got null");
  }
  SafetensorsWriter file(path, metadata, tensors);
  for (const TensorToWrite& tensor : tensors) {
    file.write(tensor.data, static_cast<size_t>(shapeBytes(tensor.shape, tensor.dtype)));
  }
  file.commit();
}

}  // namespace ddad
