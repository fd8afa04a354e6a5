#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bind/napi/arguments.h"
#include "bind/napi/env_data.h"
#include "bind/napi/napi_base.h"
#include "train/trainer.h"

namespace ddad::bind {

class TrainerResource final : public Resource {
 public:
  TrainerResource(nlohmann::json config, DeviceOptions options, std::string backbone);
  void drop() override { trainer_.reset(); }
  /// Builds the network.
  void open();
  /// The trainer; ERR_ARGUMENT before open().
  Trainer& trainer();
  /// Throws ERR_ARGUMENT where a batch has not the size that the model needs; `labels` may be null. Their values are
  /// the engine's to check.
  void checkBatch(size_t pixels, const std::vector<int32_t>* labels);

 private:
  const nlohmann::json config_;
  const DeviceOptions options_;
  const std::string backbone_;        // weights file of the features; may be empty
  std::unique_ptr<Trainer> trainer_;  // compute thread only
};

/// JavaScript's NativeTrainer; see NativeTrainer in src/engine/native.ts.
class NativeTrainer : public Napi::ObjectWrap<NativeTrainer> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit NativeTrainer(const Napi::CallbackInfo& info);
  void Finalize(Napi::Env env) override;

 private:
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value observe(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value saveCheckpoint(const Napi::CallbackInfo& info);
  Napi::Value initialize(const Napi::CallbackInfo& info);
  Napi::Value loadCheckpoint(const Napi::CallbackInfo& info);
  Napi::Value toDetector(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<TrainerResource> resource_;
};

}  // namespace ddad::bind
