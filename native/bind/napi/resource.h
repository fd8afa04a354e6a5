#pragma once
// What stands behind a JavaScript object: an engine object that only the compute thread touches, and a snapshot of
// what JavaScript may ask about it without waiting.
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "bind/napi/compute_thread.h"
#include "bind/napi/napi_base.h"
#include "nlohmann/json.hpp"

namespace ddad::bind {

class Resource {
 public:
  explicit Resource(const char* name) : name_(name) {}
  virtual ~Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;

  /// What messages call it.
  const char* name() const { return name_; }

  // On JavaScript's thread.

  bool disposed() const { return disposed_; }
  void markDisposed() { disposed_ = true; }
  /// Throws ERR_DISPOSED.
  void checkAlive() const;
  /// Tells V8 how much native memory hangs on the JavaScript object, which `alive` says is still there.
  void reportMemory(napi_env env, bool alive = true);

  // On any thread.

  std::string memory() const;
  std::string config() const;

  // On the compute thread.

  /// Frees the engine object.
  virtual void drop() = 0;
  /// Renews the snapshot: bytes by purpose, and the configuration.
  void publishMemory(const nlohmann::json& memory);
  void publishConfig(const nlohmann::json& config);

 private:
  const char* name_;
  bool disposed_ = false;
  bool collected_ = false;
  int64_t reported_ = 0;

  mutable std::mutex mutex_;
  std::string memory_ = "{}";
  std::string config_;
  int64_t bytes_ = 0;
};

/// Makes a resource that is destroyed on the compute thread, whoever lets go of it last.
template <class T, class... Args>
std::shared_ptr<T> makeResource(Args&&... args) {
  return std::shared_ptr<T>(new T(std::forward<Args>(args)...), [](T* resource) noexcept {
    try {
      ComputeThread::instance().post([resource] { delete resource; });
    } catch (...) {
      delete resource;  // no memory for the detour
    }
  });
}

/// As compact JSON. Text in it that is not UTF-8 (from a file) is replaced, never an error.
inline std::string toText(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace ddad::bind
