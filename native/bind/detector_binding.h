#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bind/napi/env_data.h"
#include "bind/napi/napi_base.h"
#include "score/gaussian_fitter.h"
#include "score/reconstruction.h"
#include "score/scorer.h"

namespace ddad::bind {

class DetectorResource final : public Resource {
 public:
  explicit DetectorResource(std::unique_ptr<Scorer> from);
  void drop() override {
    fitter.reset();
    reconstructions.clear();
    scorer.reset();
  }
  /// Renews the snapshot of memory, for which the engine's buffers may have grown.
  void publish();

  // compute thread only; the scorer outlives the others
  std::unique_ptr<Scorer> scorer;
  std::unique_ptr<GaussianFitter> fitter;
  std::map<int, std::unique_ptr<Reconstruction>> reconstructions;  // those in progress
  int lastReconstruction = 0;
  const bool hasFeatures;
  std::string origin;                // JSON; fixed once made
  std::atomic<MapSource> mapSource;  // any thread; as last configured
};

/// JavaScript's NativeDetector; see NativeDetector in src/engine/native.ts.
class NativeDetector : public Napi::ObjectWrap<NativeDetector> {
 public:
  static Napi::Function define(Napi::Env env);
  /// A JavaScript object around `resource`.
  static Napi::Value create(Napi::Env env, std::shared_ptr<DetectorResource> resource);
  explicit NativeDetector(const Napi::CallbackInfo& info);
  void Finalize(Napi::Env env) override;

 private:
  /// Queues images; `answer(env, batch)` makes the value that the promise resolves to.
  template <class F>
  void submitBatch(Napi::Env env, napi_deferred deferred, const std::vector<Napi::Value>& images,
                   const std::vector<CancelToken*>& tokens, F answer);

  Napi::Value config(const Napi::CallbackInfo& info);
  Napi::Value setConfig(const Napi::CallbackInfo& info);
  Napi::Value setMemory(const Napi::CallbackInfo& info);
  Napi::Value observePlaces(const Napi::CallbackInfo& info);
  Napi::Value setEvidence(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value scoreBatch(const Napi::CallbackInfo& info);
  Napi::Value beginGaussian(const Napi::CallbackInfo& info);
  Napi::Value observeGaussian(const Napi::CallbackInfo& info);
  Napi::Value finishGaussian(const Napi::CallbackInfo& info);
  Napi::Value reconstruct(const Napi::CallbackInfo& info);
  Napi::Value sample(const Napi::CallbackInfo& info);
  Napi::Value advance(const Napi::CallbackInfo& info);
  Napi::Value endReconstruction(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value origin(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<DetectorResource> resource_;
};

/// loadDetector(path, options, token): Promise<NativeDetector>
Napi::Value loadDetector(const Napi::CallbackInfo& info);

}  // namespace ddad::bind
