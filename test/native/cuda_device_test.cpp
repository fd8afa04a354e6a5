// The CUDA device as the engine sees it. Where there is no GPU, only that it is
// refused, and how.
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "device/cuda_library.h"
#include "device/device.h"
#include "device/device_buffer.h"
#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"

namespace ddad {
namespace {

using testing::codeOf;

/// The first GPU; null where there is none.
std::shared_ptr<Device> gpu() {
  try {
    return openDevice("cuda", 1);
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_DEVICE");
    // Where a GPU and the library are, nothing else may be missing.
    if (describeCuda().contains("library")) CHECK_FALSE(std::filesystem::exists("/dev/nvidiactl"));
    MESSAGE("not run without a GPU: ", std::string(error.what()));
    return nullptr;
  }
}

std::string messageOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Work of a recording: copies `from` to `to`, and may fail.
struct Work {
  const Device* device;
  const float* from;
  float* to;
  int64_t bytes;
  int calls = 0;
  bool fails = false, allocates = false;
  static void run(void* context) {
    Work& work = *static_cast<Work*>(context);
    ++work.calls;
    work.device->copy(work.to, work.from, work.bytes);
    if (work.fails) throw Error("ERR_CONFIG", "this work fails");
    if (work.allocates) work.device->release(work.device->allocate(64));
  }
};

}  // namespace

TEST_CASE(
    "a GPU that is not there is refused with ERR_DEVICE, and so is one "
    "too many") {
  const nlohmann::json description = describeCuda();
  REQUIRE(description.contains("reason"));
  const std::string message = messageOf([] { openDevice("cuda:999", 1); });
  CHECK(codeOf([] { openDevice("cuda:999", 1); }) == "ERR_DEVICE");
  if (description["reason"].is_null()) {
    CHECK(contains(message, "there is no GPU 999: found"));
    CHECK(description["gpus"].size() > 0);
  } else {
    CHECK(description["reason"] == message);
    CHECK(codeOf([] { openDevice("cuda", 1); }) == "ERR_DEVICE");
  }
}

TEST_CASE("CUDA device: memory comes zeroed, and what is copied arrives") {
  const auto device = gpu();
  if (!device) return;
  CHECK_FALSE(device->sharesHostMemory());
  CHECK(device->availableBytes() > 0);
  for (const int64_t count : {1, 3, 1000, 1 << 20}) {
    Mirrored<float> a(*device, count), b(*device, count);
    a.host()[0] = 1;
    a.download();
    device->synchronize();
    bool zero = true;
    for (int64_t i = 0; i < count; ++i) zero = zero && a.host()[i] == 0;
    CHECK(zero);
    for (int64_t i = 0; i < count; ++i) a.host()[i] = static_cast<float>(i + 1);
    a.upload();
    device->copy(b.device(), a.device(), a.bytes());
    b.download();
    device->clear(a.device(), 4);
    a.download();
    device->synchronize();
    bool same = a.host()[0] == 0;
    for (int64_t i = 0; i < count; ++i) same = same && b.host()[i] == static_cast<float>(i + 1);
    CHECK(same);
  }
  const auto share = device->share(1);
  CHECK_FALSE(share->sharesHostMemory());
  share->synchronize();
}

TEST_CASE("CUDA device: too much memory is ERR_MEMORY and says how much there is") {
  const auto device = gpu();
  if (!device) return;
  const auto ask = [&] { device->release(device->allocate(int64_t{1} << 50)); };
  CHECK(codeOf(ask) == "ERR_MEMORY");
  const std::string message = messageOf(ask);
  CHECK(contains(message, "1073741824 MiB"));
  CHECK(contains(message, " MiB free of "));
  device->synchronize();
}

TEST_CASE(
    "CUDA device: recorded work is replayed on today's values, and "
    "failures leave it usable") {
  const auto device = gpu();
  if (!device) return;
  const auto recording = device->record();
  if (!recording) return;  // DDAD_CUDA_GRAPHS is off
  Mirrored<float> from(*device, 100), to(*device, 100);
  Work work{device.get(), from.device(), to.device(), from.bytes()};
  const auto follows = [&](float value) {
    for (int64_t i = 0; i < 100; ++i) from.host()[i] = value + static_cast<float>(i);
    from.upload();
    recording->run(&Work::run, &work);
    to.download();
    device->synchronize();
    bool same = true;
    for (int64_t i = 0; i < 100; ++i) same = same && to.host()[i] == value + static_cast<float>(i);
    return same;
  };
  CHECK(follows(1));
  CHECK(work.calls == 1);
  work.fails = true;
  for (int i = 0; i < 3; ++i) CHECK(codeOf([&] { recording->run(&Work::run, &work); }) == "ERR_CONFIG");
  work.fails = false;
  work.allocates = true;
  CHECK(codeOf([&] { recording->run(&Work::run, &work); }) == "ERR_INTERNAL");
  work.allocates = false;
  device->synchronize();
  CHECK(work.calls == 5);
  for (int i = 2; i < 6; ++i) CHECK(follows(static_cast<float>(i)));
  CHECK(work.calls == 6);
}

TEST_CASE("CUDA device: arrays are handed over while what came before them is still in use") {
  const auto device = gpu();
  if (!device) return;
  constexpr int64_t kFloats = 1 << 18, kArrays = 7;
  // Streams that wait for one another may run in any order that this allows: an emulated GPU takes both extremes.
  for (const char* early : {"0", "1"}) {
    setenv("DDAD_EMULATED_GPU_EARLY", early, 1);
    UploadBuffer upload(*device, kFloats);
    DeviceBuffer seen(*device, 2 * kArrays * kFloats);
    std::vector<float> values(kFloats);
    for (int64_t i = 0; i < kArrays; ++i) {
      for (int64_t k = 0; k < kFloats; ++k) values[static_cast<size_t>(k)] = static_cast<float>(i * kFloats + k);
      const int64_t count = kFloats - i;
      const float* const given = upload.upload(values.data(), count);
      for (const int64_t place : {2 * i, 2 * i + 1})
        device->copy(seen.data() + place * kFloats, given, count * static_cast<int64_t>(sizeof(float)));
      std::fill(values.begin(), values.end(), -1.0f);
    }
    const std::vector<float> got = hostCopy(*device, seen.data(), seen.size());
    int64_t wrong = 0;
    for (int64_t place = 0; place < 2 * kArrays; ++place)
      for (int64_t k = 0; k < kFloats; ++k) {
        const int64_t i = place / 2, expected = k < kFloats - i ? i * kFloats + k : 0;
        if (!(got[static_cast<size_t>(place * kFloats + k)] == static_cast<float>(expected))) ++wrong;
      }
    CHECK(wrong == 0);
  }
  unsetenv("DDAD_EMULATED_GPU_EARLY");
}

}  // namespace ddad
