#include "device/open_device.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "device/cpu_device.h"
#include "device/cuda_library.h"
#include "device/thread_team.h"

namespace ddad {
namespace {

/// The reason that the last "auto" was the CPU.
struct Fallback {
  std::mutex mutex;
  std::string reason;
};

Fallback& fallback() {
  static auto* const instance = new Fallback;
  return *instance;
}

void rememberFallback(const std::string& reason) {
  const std::lock_guard lock(fallback().mutex);
  fallback().reason = reason;
}

/// N of "cuda:N", 0 of "cuda"; -1 where the name is another one.
int ordinalOf(const std::string& name) {
  if (name == "cuda") return 0;
  if (name.rfind("cuda:", 0) != 0) return -1;
  const std::string number = name.substr(5);
  if (number.empty() || number.size() > 3 || number.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoi(number);
}

}  // namespace

std::shared_ptr<Device> openDevice(const std::string& name, int threads, Precision precision) {
  if (threads < 0 || threads > 1024)
    throw Error("ERR_OPTION", "threads: expected 0 (all processors) to 1024, got " + std::to_string(threads));
  // more than there are processors help nobody, and the system may give fewer
  const int most = availableProcessors();
  const int team = teamSize(threads == 0 ? most : std::min(threads, most));
  if (const int ordinal = ordinalOf(name); ordinal >= 0) return openCudaDevice(ordinal, team, precision);
  if (name == "auto") {
    try {
      std::shared_ptr<Device> device = openCudaDevice(0, team, precision);
      rememberFallback("");
      return device;
    } catch (const Error& error) {
      rememberFallback(error.what());
    }
  } else if (name != "cpu") {
    throw Error("ERR_OPTION", "device: expected cpu, auto, cuda or cuda:N, got \"" + name.substr(0, 40) + "\"");
  }
  if (precision != Precision::kFloat32)
    throw Error("ERR_OPTION", std::string("precision: the CPU computes in float32, got ") + precisionName(precision) +
                                  (name == "auto" ? " (device auto is the CPU here: " + whyNoGpu() + ")" : ""));
  return std::make_shared<CpuDevice>(team);
}

std::string whyNoGpu() {
  const std::lock_guard lock(fallback().mutex);
  return fallback().reason;
}

}  // namespace ddad
