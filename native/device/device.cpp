#include "device/device.h"

#include <sched.h>

#include <thread>

#include "tensor/error.h"

namespace ddad {

int availableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : static_cast<int>(n);
}

std::shared_ptr<Device> openDevice(const std::string& name, int threads) {
  if (threads < 0 || threads > 1024)
    throw Error("ERR_OPTION", "threads: expected 0 (all processors) to 1024, got " + std::to_string(threads));
  if (name == "cuda" || name.rfind("cuda:", 0) == 0)
    throw Error("ERR_DEVICE", "device \"" + name + "\": this build has no CUDA device; use \"cpu\" or \"auto\"");
  if (name != "cpu" && name != "auto")
    throw Error("ERR_OPTION", "device: expected cpu, auto or cuda, got \"" + name + "\"");
  return std::make_shared<Device>(DeviceKind::kCpu, threads == 0 ? availableProcessors() : threads);
}

}  // namespace ddad
