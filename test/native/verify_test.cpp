#include "verify/verify.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "device/open_device.h"
#include "doctest.h"
#include "file/safetensors.h"
#include "golden_files.h"
#include "ops/conv/conv_kernels.h"
#include "verify/compare.h"

namespace {

namespace fs = std::filesystem;
using namespace ddad;
using namespace ddad::testing;

nlohmann::json verifyPath(const std::string& path) {
  const Cancel cancel;
  const auto device = openDevice("cpu", 2);
  return verifyFile(*device, path, backbonePath(), cancel);
}

/// A file's tensors, to be changed and written again.
class EditableFile {
 public:
  EditableFile() = default;
  explicit EditableFile(const fs::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path.string());
    metadata = file.metadata();
    for (const TensorEntry& entry : file.tensors())
      tensors.push_back({entry, std::vector<std::byte>(entry.data, entry.data + entry.bytes)});
  }

  struct Tensor {
    TensorEntry entry;
    std::vector<std::byte> bytes;

    double get(size_t i) const {
      double value = 0.0;
      visit([&](auto type) {
        std::memcpy(&type, bytes.data() + i * sizeof(type), sizeof(type));
        value = static_cast<double>(type);
      });
      return value;
    }
    void set(size_t i, double value) {
      visit([&](auto type) {
        type = static_cast<decltype(type)>(value);
        std::memcpy(bytes.data() + i * sizeof(type), &type, sizeof(type));
      });
    }
    /// Where a change shows in the norm. The first of five samples is at step 0, which uses no `z`.
    size_t largestAfterFirstSample() const {
      const size_t count = static_cast<size_t>(entry.count());
      size_t best = count / 5;
      for (size_t i = best; i < count; ++i)
        if (std::abs(get(i)) > std::abs(get(best))) best = i;
      return best;
    }
    void visit(const std::function<void(float)>& f32, const std::function<void(double)>& f64,
               const std::function<void(int32_t)>& i32) const {
      if (entry.dtype == DType::kF32) f32(0);
      if (entry.dtype == DType::kF64) f64(0);
      if (entry.dtype == DType::kI32) i32(0);
    }
    template <class F>
    void visit(F f) const {
      visit(f, f, f);
    }
  };

  Tensor& operator[](const std::string& name) {
    for (Tensor& tensor : tensors)
      if (tensor.entry.name == name) return tensor;
    FAIL("no tensor " << name);
    return tensors.front();
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.entry.name == name; });
  }
  void add(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    Tensor tensor;
    tensor.entry.name = name;
    tensor.entry.shape = shape;
    tensor.bytes.resize(values.size() * sizeof(float));
    std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    tensors.push_back(std::move(tensor));
  }
  void write(const std::string& path) const {
    std::vector<TensorToWrite> all;
    for (const Tensor& tensor : tensors)
      all.push_back({tensor.entry.name, tensor.entry.dtype, tensor.entry.shape, tensor.bytes.data()});
    writeSafetensors(path, metadata, all);
  }

  std::map<std::string, std::string> metadata;
  std::vector<Tensor> tensors;
};

/// A path that is gone at the end.
class TemporaryPath {
 public:
  TemporaryPath() {
    std::string name = (fs::temp_directory_path() / "ddad-verify-test-XXXXXX").string();
    const int file = ::mkstemp(name.data());
    REQUIRE(file >= 0);
    ::close(file);
    path = name;
  }
  ~TemporaryPath() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
  TemporaryPath(const TemporaryPath&) = delete;
  TemporaryPath& operator=(const TemporaryPath&) = delete;

  std::string path;
};

/// The verdict on a copy of `file` that `change` has been at.
nlohmann::json verifyChanged(EditableFile file, const std::function<void(EditableFile&)>& change) {
  const TemporaryPath temporary;
  change(file);
  file.write(temporary.path);
  return verifyPath(temporary.path);
}

std::string failedTensors(const nlohmann::json& result) {
  std::string names;
  for (const auto& row : result["tensors"])
    if (row["ok"] != true) names += row.dump() + "\n";
  return names;
}

nlohmann::json rowOf(const nlohmann::json& rows, const std::string& name) {
  for (const auto& row : rows)
    if (row["name"] == name) return row;
  return {};
}

/// The comparison of `values` with a file of these tensors, all of shape [n].
nlohmann::json compareWith(const std::map<std::string, std::vector<float>>& reference,
                           const std::map<std::string, std::vector<float>>& values, bool* ok) {
  const TemporaryPath temporary;
  EditableFile file;
  for (const auto& [name, tensor] : reference) file.add(name, {static_cast<int64_t>(tensor.size())}, tensor);
  file.write(temporary.path);
  const SafetensorsFile opened = SafetensorsFile::open(temporary.path);
  Comparison comparison(opened);
  comparison.input("x");
  comparison.input("param.*");
  for (const auto& [name, tensor] : values) {
    const int64_t shape[] = {static_cast<int64_t>(tensor.size())};
    comparison.check(name, std::span<const float>(tensor), shape, 1e-3);
  }
  return comparison.finish(ok);
}

}  // namespace

TEST_SUITE("verify") {
  TEST_CASE("golden files pass") {
    for (const fs::path& path :
         goldenFiles({"unet", "diffusion", "train", "features", "score", "sample", "gradient"})) {
      const nlohmann::json result = verifyPath(path.string());
      INFO(path.string(), ": ", failedTensors(result));
      CHECK(result["ok"] == true);
      CHECK(result["tensors"].size() >= 2);
    }
  }

  TEST_CASE("golden files pass with every convolution kernel") {
    const ConvKernel before = convKernel();
    for (const ConvKernel kernel : {ConvKernel::kDirect, ConvKernel::kWinograd, ConvKernel::kOnednn}) {
      setConvKernel(kernel);
      for (const fs::path& path : goldenFiles({"unet", "train", "features"})) {
        const nlohmann::json result = verifyPath(path.string());
        INFO(convKernelName(kernel), " ", path.string(), ": ", failedTensors(result));
        CHECK(result["ok"] == true);
      }
    }
    setConvKernel(before);
  }

  TEST_CASE("a reverse process that is started or driven otherwise fails") {
    for (const fs::path& path : goldenFiles({"sample", "gradient"})) {
      const EditableFile file(path);
      CHECK(verifyChanged(file, [](EditableFile&) {})["ok"] == true);
      for (const char* name : {"x_start_noise", "x0", "noise", "z", "mean", "covariance", "out", "trajectory"}) {
        CAPTURE(name);
        const auto has = [&](const EditableFile::Tensor& t) { return t.entry.name == name; };
        if (std::none_of(file.tensors.begin(), file.tensors.end(), has)) continue;
        // the first value: of the first step, since the last one adds no noise
        CHECK(verifyChanged(file, [&](EditableFile& f) { f[name].set(0, f[name].get(0) + 3.0); })["ok"] == false);
      }
    }
  }

  TEST_CASE("a diffusion file with anything changed fails") {
    for (const fs::path& path : goldenFiles({"diffusion-linear-250"})) {
      const EditableFile file(path);
      CHECK(verifyChanged(file, [](EditableFile&) {})["ok"] == true);  // the rewriting itself changes nothing
      for (const EditableFile::Tensor& tensor : file.tensors) {
        const std::string name = tensor.entry.name;
        CAPTURE(name);
        const size_t at = tensor.largestAfterFirstSample();
        const bool integers = tensor.entry.dtype == DType::kI32;
        const auto changed = [&](EditableFile& f) {
          f[name].set(at, tensor.get(at) + (integers ? -1.0 : 0.05 * (1.0 + std::abs(tensor.get(at)))));
        };
        CHECK(verifyChanged(file, changed)["ok"] == false);
        if (tensor.entry.dtype == DType::kI32) continue;
        const auto poisoned = [&](EditableFile& f) { f[name].set(at, std::numeric_limits<double>::quiet_NaN()); };
        CHECK(verifyChanged(file, poisoned)["ok"] == false);
      }
    }
  }

  TEST_CASE("a missing, an additional and a reshaped output fail") {
    for (const fs::path& path : goldenFiles({"diffusion-linear.safetensors"})) {
      const EditableFile file(path);
      nlohmann::json result = verifyChanged(file, [](EditableFile& f) { f.remove("kl_map_nats.clip"); });
      CHECK(result["ok"] == false);
      CHECK(rowOf(result["tensors"], "kl_map_nats.clip")["reason"] == "the file has no such tensor");
      result = verifyChanged(file, [](EditableFile& f) { f.add("surprise", {1}, {0}); });
      CHECK(result["ok"] == false);
      CHECK(rowOf(result["tensors"], "surprise")["ok"] == false);
      result = verifyChanged(file, [](EditableFile& f) { f["p_sample"].entry.shape = {5 * 3 * 16 * 16}; });
      CHECK(result["ok"] == false);
      CHECK(rowOf(result["tensors"], "p_sample")["error"].is_null());
      CHECK(rowOf(result["tensors"], "x_t")["ok"] == true);
      CHECK_THROWS_AS(verifyChanged(file, [](EditableFile& f) { f.remove("z"); }), Error);
      CHECK_THROWS_AS(verifyChanged(file, [](EditableFile& f) { f["t"].set(0, 1000); }), Error);
    }
  }

  TEST_CASE("a score file with a weight, an input or an output changed fails") {
    for (const fs::path& path : goldenFiles({"score-"})) {
      const EditableFile file(path);
      size_t weights = 0;
      for (const EditableFile::Tensor& tensor : file.tensors) {
        const std::string name = tensor.entry.name;
        if (name == "feature_mean" || name == "feature_std") continue;  // one of the files does not use them
        if (name.starts_with("param.") && (tensor.entry.shape.size() != 4 || weights++ % 9 != 0)) continue;
        CAPTURE(name);
        const bool integers = tensor.entry.dtype == DType::kI32;
        const size_t at = tensor.largestAfterFirstSample();
        const auto changed = [&](EditableFile& f) {
          f[name].set(at, integers ? 1.0 - std::min(1.0, tensor.get(at)) : -2.0 - 3.0 * tensor.get(at));
        };
        CHECK(verifyChanged(file, changed)["ok"] == false);
      }
      CHECK(weights > 6);
    }
  }

  TEST_CASE("a unet file with one weight changed fails") {
    for (const fs::path& path : goldenFiles({"unet-gray-plain"})) {
      const EditableFile file(path);
      size_t weights = 0;
      for (const EditableFile::Tensor& tensor : file.tensors)
        if (tensor.entry.name.starts_with("param.") && tensor.entry.shape.size() == 4 && weights++ % 6 == 0) {
          CAPTURE(tensor.entry.name);
          const auto changed = [&](EditableFile& f) { f[tensor.entry.name].set(5, tensor.get(5) + 0.05); };
          CHECK(verifyChanged(file, changed)["ok"] == false);
        }
      CHECK(weights > 6);
      CHECK_THROWS_AS(verifyChanged(file, [](EditableFile& f) { f.remove("param.out.2.weight"); }), Error);
    }
  }

  TEST_CASE("files that are no golden files") {
    EditableFile file;
    file.add("x", {1}, {0});
    const auto code = [&] {
      const TemporaryPath temporary;
      file.write(temporary.path);
      try {
        verifyPath(temporary.path);
      } catch (const Error& error) {
        return error.code();
      }
      return std::string("none");
    };
    CHECK(code() == "ERR_MODEL_FORMAT");
    for (const char* spec : {"", "[]", "{}", "{\"kind\":3}", "{\"kind\":\"other\"}", "{\"kind\":\"diffusion\"}",
                             "{\"kind\":\"diffusion\",\"schedule\":5,\"diffusionSteps\":1000,\"loss\":\"mse\"}"}) {
      CAPTURE(spec);
      file.metadata["spec"] = spec;
      CHECK(code() == "ERR_MODEL_FORMAT");
    }
    CHECK_THROWS_AS(verifyPath("/nowhere/golden.safetensors"), Error);
  }

  TEST_CASE("a cancelled check stops") {
    for (const fs::path& path : goldenFiles({"diffusion-linear.safetensors"})) {
      Cancel cancel;
      cancel.request();
      const auto device = openDevice("cpu", 1);
      CHECK_THROWS_AS(verifyFile(*device, path.string(), "", cancel), Error);
    }
  }

  TEST_CASE("the error of a tensor is relative to its norm") {
    bool ok = false;
    nlohmann::json rows = compareWith({{"out", {3, 4}}, {"x", {1}}, {"param.w", {1}}}, {{"out", {3, 4.004f}}}, &ok);
    CHECK(rows.size() == 1);
    CHECK(rows[0]["error"].get<double>() == doctest::Approx(0.0008).epsilon(1e-3));
    CHECK(ok);
    rows = compareWith({{"out", {3, 4}}}, {{"out", {3, 4.006f}}}, &ok);
    CHECK_FALSE(ok);
    compareWith({{"out", {0, 0}}}, {{"out", {0, 0}}}, &ok);
    CHECK(ok);
    compareWith({{"out", {0, 0}}}, {{"out", {0, 1e-9f}}}, &ok);
    CHECK_FALSE(ok);
    compareWith({{"out", {1}}}, {}, &ok);  // nothing computed
    CHECK_FALSE(ok);
    compareWith({{"x", {1}}}, {}, &ok);  // nothing to compare
    CHECK_FALSE(ok);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    compareWith({{"out", {nan}}}, {{"out", {nan}}}, &ok);
    CHECK_FALSE(ok);
    compareWith({{"out", {1}}}, {{"out", {nan}}}, &ok);
    CHECK_FALSE(ok);
    compareWith({{"out", {std::numeric_limits<float>::infinity()}}}, {{"out", {1}}}, &ok);
    CHECK_FALSE(ok);
  }

  TEST_CASE("gradients that are zero are held against the gradients of the whole file") {
    // R = sqrt((100 + 100) / 4) = 7.07; the floor of the second is 0.05 R sqrt(2) = 0.5.
    const std::map<std::string, std::vector<float>> reference = {{"grad.a", {10, 10}}, {"grad.b", {0, 1e-9f}}};
    bool ok = false;
    nlohmann::json rows = compareWith(reference, {{"grad.a", {10, 10}}, {"grad.b", {0, 4e-4f}}}, &ok);
    CHECK(rowOf(rows, "grad.b")["error"].get<double>() == doctest::Approx(4e-4 / 0.5).epsilon(1e-3));
    CHECK(ok);
    compareWith(reference, {{"grad.a", {10, 10}}, {"grad.b", {0, 6e-4f}}}, &ok);
    CHECK_FALSE(ok);
  }

  TEST_CASE("movements are judged as one tensor") {
    const std::map<std::string, std::vector<float>> reference = {
        {"movement.a", {3, 4}}, {"movement.b", {0}}, {"ema_movement.a", {0.3f, 0.4f}}};
    bool ok = false;
    nlohmann::json rows = compareWith(
        reference, {{"movement.a", {3, 4}}, {"movement.b", {0.004f}}, {"ema_movement.a", {0.3f, 0.4f}}}, &ok);
    CHECK(rowOf(rows, "movement.*")["error"].get<double>() == doctest::Approx(0.0008).epsilon(1e-3));
    CHECK(rowOf(rows, "ema_movement.*")["ok"] == true);
    CHECK(ok);
    // Each below the bound, the whole above it.
    compareWith(reference, {{"movement.a", {3, 4.0045f}}, {"movement.b", {0.0045f}}, {"ema_movement.a", {0.3f, 0.4f}}},
                &ok);
    CHECK_FALSE(ok);
    compareWith(reference, {{"movement.a", {3, 4}}, {"movement.b", {0}}, {"ema_movement.a", {0.3f, 0.41f}}}, &ok);
    CHECK_FALSE(ok);
  }

  TEST_CASE("layouts") {
    const std::vector<float> nchw = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};  // [2, 3, 2]
    const std::vector<float> nhwc = toNhwc(nchw, 2, 3, 2);
    CHECK(nhwc == std::vector<float>{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11});
    CHECK(toNchw(nhwc, 2, 3, 2) == nchw);
  }
}
