#include "export/source.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "base/error.h"
#include "file/digest.h"
#include "file/json_fields.h"
#include "graph/parameters.h"
#include "score/model_file.h"
#include "unet/config.h"

namespace ddad {
ExportSource::ExportSource(const std::string& path, bool head) : file_(SafetensorsFile::open(path)) {
  requireDigest(file_);
  config_ = readModelConfig(file_, {"model", "checkpoint"});
  if (file_.metadata().at("kind") == "checkpoint") prefix_ = "ema.";
  try {
    UNetConfig unet = UNetConfig::fromJson(requireObject(config_, "unet"));
    if (!head) unet.featureChannels = 0;
    net_ = buildUNet(unet);
  } catch (const Error& e) {
    throw Error("ERR_MODEL_FORMAT", path + ": its configuration is not valid: " + e.what());
  }
  checkParameters(net_.graph, file_, prefix_);
}

ParameterReader ExportSource::reader() const {
  return [this](const ParamSpec& param, float* to) {
    const std::string name = tensorName(param);
    file_.readFloats(name, param.shape, to);
    releasePages(file_.get(name));
  };
}

void ExportSource::releasePages(const TensorEntry& tensor) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.data) + static_cast<uintptr_t>(tensor.bytes)) / page * page;
  // advice alone: where it is not taken, the pages stay until somebody needs the memory
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace ddad
