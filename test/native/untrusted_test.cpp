// Files that ask for more than they may: depth, memory, tensors of no size. Most of these were found by the fuzz
// targets.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>

#include "backbone/efficientnet.h"
#include "base/memory_limit.h"
#include "device/choices.h"
#include "device/device.h"
#include "device/open_device.h"
#include "error_code.h"
#include "file/json_fields.h"
#include "file_helpers.h"
#include "graph/parameters.h"
#include "graph/plan.h"
#include "score/scorer.h"
#include "small_model.h"
#include "train/trainer.h"
#include "unet/config.h"
#include "unet/unet.h"
#include "verify/verify.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

constexpr size_t kDeep = 1'000'000;  // writing this would overflow the stack

/// A header whose tensors are all zeros.
std::string zeros(const std::map<std::string, std::string>& metadata,
                  const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors) {
  nlohmann::json header = {{"__metadata__", metadata}};
  int64_t offset = 0;
  for (const auto& [name, shape] : tensors) {
    int64_t bytes = 4;
    for (int64_t extent : shape) bytes *= extent;
    const char* dtype = name == "t" ? "I32" : "F32";
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  return fileWith(header.dump(), static_cast<size_t>(offset));
}

std::string codeOfGolden(const TemporaryFolder& folder, const nlohmann::json& spec,
                         const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors) {
  writeBytes(folder / "golden", zeros({{"spec", spec.dump()}}, tensors));
  const auto device = openDevice("cpu", 1);
  return codeOf([&] { verifyFile(*device, folder / "golden", "", Cancel()); });
}

}  // namespace

TEST_CASE("JSON of a file nests as deep as configurations do and no deeper") {
  CHECK(parseJson(nested(100)).is_array());
  CHECK(parseJson(nested(101)).is_discarded());
  CHECK(parseJson(nested(kDeep)).is_discarded());
  CHECK(parseJson(std::string(kDeep, '{')).is_discarded());
  CHECK(parseJson("{\"a\\\"[[[\":\"" + std::string(1000, '[') + "\"}").is_object());  // brackets in strings are text
  CHECK(parseJson("{").is_discarded());
  CHECK(parseJson("").is_discarded());
}

TEST_CASE("a deep configuration is refused in models, checkpoints, golden files and the table of kernels") {
  const TemporaryFolder folder;
  const auto device = openDevice("cpu", 1);
  const std::string deep = "{\"unet\":" + nested(kDeep) + "}";
  const auto write = [&](const char* kind) {
    std::map<std::string, std::string> metadata = {{"format", "ddad-native"}, {"formatVersion", "1"}, {"step", "1"}};
    metadata["kind"] = kind;
    metadata["config"] = metadata["spec"] = deep;
    writeBytes(folder / kind, zeros(metadata, {}));
    return folder / kind;
  };
  CHECK(codeOf([&] { Scorer::load(device, write("model")); }) == "ERR_MODEL_FORMAT");
  Trainer trainer(device, smallModel(16, 1));
  CHECK(codeOf([&] { trainer.loadCheckpoint(write("checkpoint")); }) == "ERR_MODEL_FORMAT");
  CHECK(codeOf([&] { verifyFile(*device, write("golden"), "", Cancel()); }) == "ERR_MODEL_FORMAT");

  const std::string table = folder / "kernels.json";
  writeBytes(table, "{\"formatVersion\":1,\"processors\":{\"cpu\":{\"key\":\"direct\"}},\"a\":" + nested(kDeep) + "}");
  Choices choices(table, "cpu");
  CHECK(choices.size() == 0);
  CHECK(choices.keep("key", "winograd") == "winograd");
}

TEST_CASE("a configuration takes no memory that its file does not have") {
  const TemporaryFolder folder;
  nlohmann::json config = smallModel(16, 1);
  config["unet"]["modelChannels"] = 4096;
  config["unet"]["channelMult"] = {64, 64, 64, 64, 64, 64, 64, 64};
  config["unet"]["numResBlocks"] = 16;
  config["unet"]["numClasses"] = 1000000;
  writeBytes(
      folder / "model",
      zeros({{"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config.dump()}}, {}));
  CHECK(codeOf([&] { Scorer::load(openDevice("cpu", 1), folder / "model"); }) == "ERR_MODEL_FORMAT");
}

TEST_CASE("free memory is at most what each control group on the way up allows") {
  const auto available = [](const std::map<std::string, std::string>& files) {
    const TemporaryFolder folder;
    const std::filesystem::path root = folder / "root";
    for (const auto& [name, text] : files) {
      std::filesystem::create_directories((root / name).parent_path());
      writeBytes((root / name).string(), text + "\n");
    }
    return availableMemory(root.string()) >> 20;
  };
  const std::string meminfo = "MemTotal: 9 kB\nMemAvailable: 8388608 kB\nSwapFree: 0 kB";
  const std::string second = "30 24 0:26 / /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw";
  const std::string first = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
  CHECK(available({{"proc/meminfo", meminfo}}) == 8192);
  CHECK(available({{"proc/meminfo", meminfo},
                   {"proc/self/cgroup", "0::/a.slice/b/c"},
                   {"proc/self/mountinfo", second},
                   {"sys/fs/cgroup/a.slice/memory.max", "2147483648"},
                   {"sys/fs/cgroup/a.slice/b/memory.max", "max"},
                   {"sys/fs/cgroup/a.slice/b/c/memory.max", "3221225472"}}) == 2048);
  CHECK(available({{"proc/meminfo", meminfo},
                   {"proc/self/cgroup", "4:cpu,memory:/docker/abc\n0::/"},
                   {"proc/self/mountinfo", second + "\n" + first},
                   {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"},
                   {"sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "1073741824"},
                   {"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "2147483648"}}) == 1024);
  CHECK(available({{"proc/meminfo", meminfo},
                   {"proc/self/cgroup", "4:memory:/docker/abc"},
                   {"proc/self/mountinfo", "31 24 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"},
                   {"sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824"}}) == 1024);
  CHECK(available({{"proc/meminfo", meminfo},
                   {"proc/self/cgroup", "0::/../../x"},
                   {"proc/self/mountinfo", second},
                   {"sys/fs/cgroup/memory.max", "1073741824"}}) == 1024);
}

TEST_CASE("memory that is not there is refused before it is taken") {
  CHECK(availableMemory() > uint64_t{1} << 20);
  CHECK(codeOf([] { requireMemory(1 << 20); }) == "no error");
  for (const int64_t floats : {int64_t{1} << 47, int64_t{1} << 49, std::numeric_limits<int64_t>::max()}) {
    CHECK(codeOf([&] { requireMemory(floats); }) == "ERR_MEMORY");
    CHECK(codeOf([&] { AlignedBuffer buffer(floats); }) == "ERR_MEMORY");
  }
}

TEST_CASE("shapes whose products leave 64 bits are refused") {
  const auto device = openDevice("cpu", 1);
  const UNet net = buildUNet(UNetConfig::fromJson(smallModel(16, 1).at("unet")));
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  for (const int64_t side : {int64_t{1} << 31, int64_t{1} << 40, std::numeric_limits<int64_t>::max()})
    CHECK(codeOf([&] { Plan(*device, net.graph, {4096, side, side}, block); }) == "ERR_MEMORY");
}

TEST_CASE("golden files without samples, channels or images are refused") {
  const TemporaryFolder folder;
  const nlohmann::json diffusion = {
      {"kind", "diffusion"}, {"schedule", "linear"}, {"diffusionSteps", 50}, {"respacing", nullptr}, {"loss", "mse"}};
  for (const int64_t n : {0, 1})
    for (const int64_t c : {0, 1}) {
      if (n == 1 && c == 1) continue;
      const std::vector<int64_t> image = {n, c, 2, 2};
      CHECK(codeOfGolden(
                folder, diffusion,
                {{"x0", image}, {"noise", image}, {"z", image}, {"model_output", {n, 2 * c, 2, 2}}, {"t", {n}}}) ==
            "ERR_MODEL_FORMAT");
    }

  const nlohmann::json unet = smallModel(16, 1).at("unet");
  nlohmann::json train = {
      {"kind", "train"}, {"config", unet},       {"steps", 1},           {"batch", 1},          {"optimizer", "adamw"},
      {"lr", 1e-4},      {"betas", {0.9, 0.99}}, {"eps", 1e-8},          {"weightDecay", 0.01}, {"lrAnneal", "linear"},
      {"ema", 0.9},      {"schedule", "linear"}, {"diffusionSteps", 50}, {"loss", "mse"}};
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors = {
      {"x0", {1, 1, 0, 16, 16}}, {"noise", {1, 1, 0, 16, 16}}, {"t", {1, 1}}};
  const UNet net = buildUNet(UNetConfig::fromJson(unet));
  for (const ParamSpec& p : net.graph.params()) tensors.push_back({"param." + p.name, p.shape});
  CHECK(codeOfGolden(folder, train, tensors) == "ERR_MODEL_FORMAT");  // read past the end of the images once
  train["steps"] = 1e300;
  CHECK(codeOfGolden(folder, train, tensors) == "ERR_MODEL_FORMAT");
}

TEST_CASE("a backbone without outputs or with impossible statistics is refused") {
  const TemporaryFolder folder;
  const auto load = [&](std::vector<std::pair<std::string, std::vector<int64_t>>> tensors) {
    writeBytes(folder / "backbone", zeros({}, tensors));
    return codeOf([&] { loadBackbone(SafetensorsFile::open(folder / "backbone"), "", 2); });
  };
  CHECK(load({{"_conv_stem.weight", {0, 3, 3, 3}}, {"_conv_stem.bias", {0}}}) == "ERR_MODEL_FORMAT");
  CHECK(load({{"_conv_stem.weight", {int64_t{1} << 40, 0, 3, 3}}}) == "ERR_MODEL_FORMAT");

  // the variance of a norm is -1: its square root is no number
  SafetensorsFile packaged = SafetensorsFile::open(packagedBackbone());
  std::vector<TensorToWrite> tensors;
  std::vector<float> ones(4096, 1.0f), minus(4096, -1.0f);
  for (const TensorEntry& t : packaged.tensors())
    if (!t.name.ends_with("_conv_stem.bias")) tensors.push_back({t.name, t.dtype, t.shape, t.data});
  const int64_t out = packaged.get("_conv_stem.weight").shape[0];
  std::erase_if(tensors, [](const TensorToWrite& t) { return t.name.starts_with("_bn0."); });
  for (const char* name : {"weight", "bias", "running_mean", "running_var"})
    tensors.push_back({std::string("_bn0.") + name,
                       DType::kF32,
                       {out},
                       std::string(name) == "running_var" ? minus.data() : ones.data()});
  writeSafetensors(folder / "odd", {}, tensors);
  checkError("ERR_MODEL_FORMAT", {"_bn0", "finite"}, [&] { loadBackbone(SafetensorsFile::open(folder / "odd")); });
}
