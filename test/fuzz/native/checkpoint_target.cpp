// Checkpoints, read into a trainer that stays.
#include "device/device.h"
#include "device/open_device.h"
#include "support.h"
#include "train/trainer.h"

namespace ddad::fuzz {
namespace {

Trainer& trainer() {
  static Trainer* const kept = [] {
    MemoryFile backbone("backbone");
    backbone.set(tinyBackboneFile());
    return new Trainer(openDevice("cpu", 1), tinyConfig(true), backbone.path());
  }();
  return *kept;
}

void run(std::string_view input) {
  static MemoryFile file("checkpoint");
  openInput(file, input);
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    trainer().loadCheckpoint(file.path()).dump();
    if (trainer().stepsDone() < 0) std::abort();
  });
}

std::vector<std::string> seeds() {
  const nlohmann::json config = tinyConfig(true);
  return {seedFile({{"format", "ddad-native"},
                    {"formatVersion", "1"},
                    {"kind", "checkpoint"},
                    {"step", "17"},
                    {"config", config.dump()}},
                   tinyModel(config, {"model.", "ema.", "adam_m.", "adam_v."}))};
}

const Registered registered({"checkpoint", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
