#include "bind/napi/resource.h"

#include "base/error.h"

namespace ddad::bind {

void Resource::checkAlive() const {
  if (disposed_) throw Error("ERR_DISPOSED", std::string("the ") + name_ + " has been disposed");
}

void Resource::reportMemory(napi_env env, bool alive) {
  if (!alive) collected_ = true;
  int64_t now = 0;
  if (!disposed_ && !collected_) {
    std::lock_guard lock(mutex_);
    now = bytes_;
  }
  if (now == reported_) return;
  int64_t total = 0;
  napi_adjust_external_memory(env, now - reported_, &total);  // a hint: failing to give it is no error
  reported_ = now;
}

std::string Resource::memory() const {
  std::lock_guard lock(mutex_);
  return memory_;
}

std::string Resource::config() const {
  std::lock_guard lock(mutex_);
  return config_;
}

void Resource::publishMemory(const nlohmann::json& memory) {
  int64_t bytes = 0;
  for (const auto& part : memory)
    if (part.is_number()) bytes += part.get<int64_t>();
  std::string text = toText(memory);
  std::lock_guard lock(mutex_);
  memory_ = std::move(text);
  bytes_ = bytes;
}

void Resource::publishConfig(const nlohmann::json& config) {
  std::string text = toText(config);
  std::lock_guard lock(mutex_);
  config_ = std::move(text);
}

}  // namespace ddad::bind
