#pragma once
// What the tests of safetensors files share.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "doctest.h"
#include "file/safetensors.h"

namespace ddad::testing {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "ddad-file-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  size_t fileCount() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

inline std::string readBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void writeBytes(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  REQUIRE(out.good());
}

inline std::string lengthPrefix(uint64_t length) {
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes;
}

inline std::string fileWith(const std::string& header, size_t dataBytes) {
  return lengthPrefix(header.size()) + header + std::string(dataBytes, '\0');
}

template <class F>
void checkError(const std::string& code, const std::vector<std::string>& parts, F call) {
  try {
    call();
    FAIL_CHECK("expected " << code << ", got no error");
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(error.code() == code);
    CHECK(message.size() < 1000);
    for (const std::string& part : parts) {
      INFO("message: " << message << "; expected in it: " << part);
      CHECK(message.find(part) != std::string::npos);
    }
  }
}

// Opens a file of these bytes and expects ERR_MODEL_FORMAT that names the file and says all of `parts`.
inline void checkRefused(const std::string& bytes, std::vector<std::string> parts) {
  const TemporaryFolder folder;
  const std::string path = folder / "bad.safetensors";
  writeBytes(path, bytes);
  parts.push_back(path);
  checkError("ERR_MODEL_FORMAT", parts, [&] { SafetensorsFile::open(path); });
}

inline std::string tensorJson(const std::string& name, const std::string& dtype, const std::string& shape,
                              uint64_t begin, uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

inline const std::map<std::string, std::string> kMetadata = {{"format", "ddad-native"},
                                                             {"config", "{\"quote\":\"\\\"\u00e9\"}"}};

/// What was written as metadata: the writer adds the digest.
inline std::map<std::string, std::string> ownMetadata(const SafetensorsFile& file) {
  std::map<std::string, std::string> metadata = file.metadata();
  metadata.erase("digest");
  metadata.erase("digestAlgorithm");
  return metadata;
}

struct Sample {
  std::vector<float> weight = {1, -2, 0.5f, 3e-39f, 0, -0.0f};
  std::vector<double> schedule = {1e-300, 1.0 / 3, -7};
  std::vector<int64_t> timesteps = {0, 999, -5};
  std::vector<uint8_t> pixels = {0, 127, 255};
  float scalar = 42;

  std::vector<TensorToWrite> tensors() const {
    return {{"w.weight", DType::kF32, {2, 3}, weight.data()},
            {"pixels", DType::kU8, {3}, pixels.data()},  // leaves what follows unaligned
            {"schedule", DType::kF64, {3}, schedule.data()},
            {"empty", DType::kF32, {0, 4}, nullptr},
            {"timesteps", DType::kI64, {3, 1}, timesteps.data()},
            {"a \"quoted\"\nname", DType::kF32, {}, &scalar}};
  }
};

}  // namespace ddad::testing
