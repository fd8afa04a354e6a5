#include "device/cuda_library.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>

#include "base/error.h"
#include "device/cuda_abi.h"

namespace ddad {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// What the library needs, each after what it needs itself.
constexpr const char* kNeeded[] = {"libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9"};

struct CudaLibrary {
  std::string path;
  OpenCudaFunction* open;
  DescribeCudaFunction* describe;
};

[[noreturn]] void fail(const std::string& message) { throw Error("ERR_DEVICE", message); }

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string loaderMessage() {
  const char* text = dlerror();
  return text ? text : "unknown error";
}

/// The folder of the module (addon or program) that this code is in.
fs::path moduleFolder() {
  Dl_info info{};
  link_map* module = nullptr;
  void* const here = reinterpret_cast<void*>(&moduleFolder);
  const bool known = dladdr1(here, &info, reinterpret_cast<void**>(&module), RTLD_DL_LINKMAP) != 0 && module;
  // A program has no name there.
  const fs::path file = known && *module->l_name ? module->l_name : "/proc/self/exe";
  std::error_code failed;
  const fs::path whole = fs::canonical(file, failed);
  return (failed ? file : whole).parent_path();
}

/// Loads what the library needs from the folders that DDAD_CUDA_PATH names: the loader then takes these.
void preload() {
  const std::string folders = environment("DDAD_CUDA_PATH");
  for (const char* name : kNeeded)
    for (size_t start = 0; start < folders.size();) {
      const size_t end = std::min(folders.find(':', start), folders.size());
      const fs::path file = fs::path(folders.substr(start, end - start)) / name;
      start = end + 1;
      std::error_code failed;
      if (!file.has_parent_path() || !fs::exists(file, failed)) continue;
      if (!dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL))
        fail("a library in DDAD_CUDA_PATH does not load: " + loaderMessage());
      break;
    }
}

/// What to do about a library that the loader did not find.
std::string remedy(const std::string& message) {
  const auto names = [&](const char* part) { return message.rfind(part, 0) == 0; };
  const bool missing = message.find("cannot open shared object file") != std::string::npos;
  std::string what;
  if (missing && names("libcudnn")) what = "cuDNN 9 for CUDA 13 (package nvidia-cudnn-cu13 of PyPI)";
  if (missing && names("libcublas")) what = "cuBLAS 13 (package nvidia-cublas of PyPI)";
  if (what.empty()) return "";
  return ": install " + what + " where the loader looks, or name its folder in DDAD_CUDA_PATH";
}

CudaLibrary load() {
  const std::string named = environment("DDAD_CUDA_LIBRARY");
  const fs::path path = named.empty() ? moduleFolder() / kCudaLibrary : fs::path(named);
  std::error_code failed;
  if (!fs::exists(path, failed))
    fail(named.empty() ? "this build has no CUDA device (" + std::string(kCudaLibrary) + " was not found in " +
                             path.parent_path().string() + "); npm run build:cuda builds it"
                       : "DDAD_CUDA_LIBRARY names " + path.string() + ", which does not exist");
  preload();
  // A name without a folder would be searched for.
  const std::string whole = fs::absolute(path).string();
  void* const handle = dlopen(whole.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const std::string message = loaderMessage();
    fail("the CUDA device, " + whole + ", does not load: " + message + remedy(message));
  }
  const auto buildId = reinterpret_cast<CudaBuildIdFunction*>(dlsym(handle, "ddadCudaBuildId"));
  const CudaLibrary library{whole, reinterpret_cast<OpenCudaFunction*>(dlsym(handle, "ddadOpenCuda")),
                            reinterpret_cast<DescribeCudaFunction*>(dlsym(handle, "ddadDescribeCuda"))};
  const bool ours = buildId && library.open && library.describe;
  const std::string id = ours ? buildId() : "";
  if (id != kCudaBuildId) {
    dlclose(handle);
    fail(whole +
         (ours ? " is of another build (" + id + ") than this engine (" + kCudaBuildId + ")"
               : std::string(" is not the CUDA device of this engine")) +
         "; npm run build:cuda builds it");
  }
  return library;  // stays: devices have their code in it
}

/// The library, loaded once; tried again after a failure.
const CudaLibrary& library() {
  static auto* const mutex = new std::mutex;
  static const CudaLibrary* loaded = nullptr;
  const std::lock_guard<std::mutex> lock(*mutex);
  if (!loaded) loaded = new CudaLibrary(load());
  return *loaded;
}

}  // namespace

std::shared_ptr<Device> openCudaDevice(int ordinal, int threads, Precision precision) {
  return std::shared_ptr<Device>(library().open(ordinal, threads, precision));
}

json describeCuda() {
  try {
    const CudaLibrary& cuda = library();
    std::string text;
    cuda.describe(text);
    json description = json::parse(text);
    description["library"] = cuda.path;
    return description;
  } catch (const Error& error) {
    return {{"reason", error.what()}};
  }
}

}  // namespace ddad
