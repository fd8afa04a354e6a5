#include "support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "unet/config.h"
#include "unet/unet.h"

namespace ddad::fuzz {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMostData = uint64_t{16} << 20;
constexpr int64_t kWidths[] = {8, 12, 16, 20, 24};  // of the tiny backbone's stages
constexpr int kKernels[] = {3, 3, 5, 3, 5};

[[noreturn]] void stop(const std::string& why) {
  std::fprintf(stderr, "FINDING: %s\n", why.c_str());
  std::abort();
}

void require(bool ok, const char* what) {
  if (!ok) stop(what);
}

}  // namespace

std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

MemoryFile::MemoryFile(const char* name)
    : descriptor_(::memfd_create(name, MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
  require(descriptor_ >= 0, "no file in memory can be had");
}

MemoryFile::~MemoryFile() { ::close(descriptor_); }

void MemoryFile::set(std::string_view bytes, uint64_t size) {
  size = std::max<uint64_t>(size, bytes.size());
  require(::ftruncate(descriptor_, 0) == 0 && ::ftruncate(descriptor_, static_cast<off_t>(size)) == 0, "ftruncate");
  require(::pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), "pwrite");
}

uint64_t promisedBytes(std::string_view header) {
  constexpr std::string_view kName = "\"data_offsets\":[";
  uint64_t most = 0;
  for (size_t at = header.find(kName); at != std::string_view::npos; at = header.find(kName, at + 1)) {
    const size_t comma = header.find(',', at + kName.size());
    if (comma == std::string_view::npos) break;
    uint64_t end = 0;
    const auto read = std::from_chars(header.data() + comma + 1, header.data() + header.size(), end);
    if (read.ec == std::errc() && end <= kMostData) most = std::max(most, end);
  }
  return most;
}

bool mayFail(std::initializer_list<const char*> codes, const std::function<void()>& call) {
  try {
    call();
    return true;
  } catch (const Error& error) {
    const bool known = std::any_of(codes.begin(), codes.end(), [&](const char* code) { return error.code() == code; });
    if (!known) stop("unexpected " + error.code() + ": " + error.what());
    if (std::strlen(error.what()) > 4000) stop("a message of " + std::to_string(std::strlen(error.what())) + " bytes");
  } catch (const std::exception& error) {
    stop(std::string("an exception that is no Error: ") + error.what());
  }
  return false;
}

void openInput(MemoryFile& file, std::string_view input) {
  uint64_t size = input.size();
  if (size >= kLengthBytes) {
    uint64_t header = 0;
    std::memcpy(&header, input.data(), kLengthBytes);
    if (header <= size - kLengthBytes)
      size = std::max(size, kLengthBytes + header + promisedBytes(input.substr(kLengthBytes, header)));
  }
  file.set(input, size);
}

std::string seedFile(const std::map<std::string, std::string>& metadata, std::vector<SeedTensor> tensors) {
  std::stable_partition(tensors.begin(), tensors.end(), [](const SeedTensor& t) { return !t.leading.empty(); });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  int64_t offset = 0;
  for (const SeedTensor& t : tensors) {
    int64_t bytes = dtypeSize(t.dtype);
    for (int64_t extent : t.shape) bytes *= extent;
    header[t.name] = {{"dtype", dtypeName(t.dtype)}, {"shape", t.shape}, {"data_offsets", {offset, offset + bytes}}};
    if (!t.leading.empty()) {
      data.resize(static_cast<size_t>(offset));
      data.append(reinterpret_cast<const char*>(t.leading.data()), t.leading.size() * sizeof(float));
    }
    offset += bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), kLengthBytes) + text + data;
}

void append(const Graph& graph, const std::string& prefix, std::vector<SeedTensor>& tensors) {
  for (const ParamSpec& p : graph.params()) tensors.push_back({prefix + p.name, p.shape, {}});
}

std::vector<SeedTensor> tinyBackbone(const std::string& prefix, bool folded) {
  std::vector<SeedTensor> tensors;
  const auto conv = [&](const std::string& name, const std::string& norm, const std::vector<int64_t>& shape) {
    tensors.push_back({prefix + name + ".weight", shape, {}});
    if (folded) {
      tensors.push_back({prefix + name + ".bias", {shape[0]}, {}});
      return;
    }
    for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
      tensors.push_back({prefix + norm + part, {shape[0]}, {}});
  };
  int64_t in = 8;
  conv("_conv_stem", "_bn0", {in, 3, 3, 3});
  for (size_t stage = 0; stage < std::size(kWidths); ++stage) {
    const std::string block = "_blocks." + std::to_string(stage);
    const int64_t wide = stage == 1 ? 16 : in;
    if (wide != in) conv(block + "._expand_conv", block + "._bn0", {wide, in, 1, 1});
    conv(block + "._depthwise_conv", block + "._bn1", {wide, 1, kKernels[stage], kKernels[stage]});
    conv(block + "._project_conv", block + "._bn2", {kWidths[stage], wide, 1, 1});
    in = kWidths[stage];
  }
  return tensors;
}

int64_t tinyFeatures(const std::vector<int64_t>& strides) {
  int64_t channels = 0;
  for (int64_t s : strides) channels += s == 2 ? kWidths[0] : s == 4 ? kWidths[1] : s == 8 ? kWidths[2] : kWidths[4];
  return channels;
}

std::string tinyBackboneFile() {
  std::string bytes = seedFile({}, tinyBackbone("", true));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), kLengthBytes);
  bytes.resize(kLengthBytes + header + promisedBytes(std::string_view(bytes).substr(kLengthBytes, header)));
  return bytes;
}

nlohmann::json tinyConfig(bool features) {
  const std::vector<int64_t> strides = {2, 4};
  nlohmann::json config = {{"unet",
                            {{"imageSize", 8},
                             {"inChannels", 1},
                             {"modelChannels", 32},
                             {"numResBlocks", 1},
                             {"attentionResolutions", nlohmann::json::array()},
                             {"channelMult", {1}},
                             {"useScaleShiftNorm", true}}},
                           {"diffusion", {{"schedule", "linear"}, {"steps", 50}}},
                           {"input", {{"mode", "resize"}, {"size", 8}, {"channels", 1}}},
                           {"score", {{"scales", {20}}, {"normalization", "none"}}},
                           {"training", {{"seed", 3}, {"batchSize", 1}}}};
  if (!features) return config;
  config["unet"]["channelMult"] = {1, 1, 1};
  config["unet"]["featureChannels"] = tinyFeatures(strides);
  config["features"] = {{"strides", strides}};
  config["score"] = {{"scales", {5, 20}}, {"normalization", "calibration"}, {"memory", {{"weight", 0.5}}}};
  config["calibration"] = {{"pixelMean", {0, 0}},
                           {"pixelStd", {1, 1}},
                           {"featureMean", {0, 0}},
                           {"featureStd", {1, 1}},
                           {"memoryMean", 0},
                           {"memoryStd", 1},
                           {"position",
                            {{"width", 2},
                             {"height", 1},
                             {"pixelMean", {0, 0}},
                             {"pixelStd", {1, 1}},
                             {"featureMean", {0, 0}},
                             {"featureStd", {1, 1}}}}};
  return config;
}

std::vector<SeedTensor> tinyModel(const nlohmann::json& config, const std::vector<std::string>& prefixes) {
  std::vector<SeedTensor> tensors;
  const UNet net = buildUNet(UNetConfig::fromJson(config.at("unet")));
  for (const std::string& prefix : prefixes) append(net.graph, prefix, tensors);
  if (!config.contains("features")) return tensors;
  const auto channels = config.at("unet").at("featureChannels").get<int64_t>();
  for (SeedTensor& t : tinyBackbone("backbone.", true)) tensors.push_back(std::move(t));
  tensors.push_back({"feature_mean", {channels}, {}});
  tensors.push_back({"feature_std", {channels}, std::vector<float>(static_cast<size_t>(channels), 1.0f)});
  return tensors;
}

}  // namespace ddad::fuzz
