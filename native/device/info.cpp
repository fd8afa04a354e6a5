#include "device/info.h"

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/error.h"
#include "device/choices.h"
#include "device/cuda_library.h"
#include "device/device.h"
#include "device/dispatch.h"
#include "device/open_device.h"
#include "dnnl.hpp"

#ifndef DDAD_VERSION
#define DDAD_VERSION "0.1.0"
#endif

namespace ddad {
namespace {

using nlohmann::json;

/// The text behind `name` and a colon in a file of lines such as "VmRSS:     12345 kB"; empty where there is none.
std::string field(const char* path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size(), name) != 0) continue;
    const size_t colon = line.find_first_not_of(" \t", name.size());
    if (colon == std::string::npos || line[colon] != ':') continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

/// A field in kB as bytes; null where the system does not say.
json bytes(const char* path, const std::string& name) {
  const std::string text = field(path, name);
  if (text.empty()) return nullptr;
  return std::strtoll(text.c_str(), nullptr, 10) * 1024;
}

std::string cpuName() {
  std::string name = field("/proc/cpuinfo", "model name");
  return name.empty() ? "unknown" : name;
}

/// Instruction sets that this process may use: what the processor has, up to DDAD_MAX_CPU_ISA.
json usableIsas() {
  json names = json::array();
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512})
    if (isa <= cpuIsa()) names.push_back(isaName(isa));
  return names;
}

std::string oneDnnVersion() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

const char* oneDnnIsa() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx2_vnni_2:
      return "avx2_vnni_2";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_fp16:
      return "avx512_core_fp16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    case dnnl::cpu_isa::avx512_core_amx_fp16:
      return "avx512_core_amx_fp16";
    default:
      return "default";
  }
}

/// The CPU, and the GPU with what there is of it: whether it can be had, or why not.
json describeDevices() {
  json cuda = describeCuda();
  cuda["name"] = "cuda";
  cuda["available"] = cuda.contains("reason") && cuda["reason"].is_null();
  if (cuda["available"]) cuda.erase("reason");
  return json::array({{{"name", "cpu"}, {"available", true}}, std::move(cuda)});
}

}  // namespace

std::string processorKey() {
  return cpuName() + ", " + isaName(cpuIsa()) + ", oneDNN " + oneDnnVersion() + " " + oneDnnIsa() + ", " + DDAD_VERSION;
}

json engineInfo() {
  const Choices& choices = Choices::ofThisProcessor();
  const std::string reason = whyNoGpu();
  return {{"version", DDAD_VERSION},
          {"cpu",
           {{"name", cpuName()},
            {"isa", isaName(cpuIsa())},
            {"isas", usableIsas()},
            {"processors", availableProcessors()}}},
          {"onednn", {{"version", oneDnnVersion()}, {"isa", oneDnnIsa()}}},
          {"devices", describeDevices()},
          {"fallback", reason.empty() ? json(nullptr) : json(reason)},
          {"kernelChoices",
           {{"file", choices.usable() ? json(choices.path()) : json(nullptr)},
            {"count", choices.size()},
            {"problem", choices.problem().empty() ? json(nullptr) : json(choices.problem())}}},
          {"memory",
           {{"total", bytes("/proc/meminfo", "MemTotal")},
            {"available", bytes("/proc/meminfo", "MemAvailable")},
            {"process", bytes("/proc/self/status", "VmRSS")},
            {"processPeak", bytes("/proc/self/status", "VmHWM")}}}};
}

}  // namespace ddad
