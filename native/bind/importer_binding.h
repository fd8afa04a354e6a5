#pragma once
#include <memory>
#include <string>

#include "bind/napi/env_data.h"
#include "bind/napi/napi_base.h"
#include "import/importer.h"

namespace ddad::bind {

class ImporterResource final : public Resource {
 public:
  explicit ImporterResource(std::string path) : Resource("importer"), path_(std::move(path)) {}
  void drop() override { importer_.reset(); }
  /// Maps the checkpoint; what it holds.
  nlohmann::json open(const nlohmann::json& options);
  /// The importer; ERR_ARGUMENT before open().
  Importer& importer();

 private:
  const std::string path_;
  std::unique_ptr<Importer> importer_;  // compute thread only
};

/// JavaScript's NativeImporter; see NativeImporter in src/engine/native.ts.
class NativeImporter : public Napi::ObjectWrap<NativeImporter> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit NativeImporter(const Napi::CallbackInfo& info);

 private:
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value begin(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<ImporterResource> resource_;
};

}  // namespace ddad::bind
