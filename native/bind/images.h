#pragma once
// Images on their way in, and floats on their way out.
#include <cstdint>
#include <string>
#include <vector>

#include "bind/napi/napi_base.h"
#include "score/scorer.h"

namespace ddad::bind {

/// Pixels of an image or a map: as many as sharp decodes unless told otherwise, and far from overflowing an int.
constexpr int64_t kMaxPixels = int64_t{1} << 28;

/// A score request with pixels of its own.
struct OwnedImage {
  ScoreRequest request;
  std::vector<uint8_t> pixels;
};

/// The image in `value`, copied; `call` is what messages begin with. Throws ERR_ARGUMENT.
OwnedImage copyImage(const Napi::Value& value, const std::string& call);

/// Floats in JavaScript's memory that the compute thread fills in, so that nothing large is copied on JavaScript's
/// thread. Nobody else can reach them (to detach them, say) before they are handed out.
class Map {
 public:
  Map(Napi::Env env, size_t length, std::vector<napi_ref>& held);

  float* data() const { return data_; }
  size_t length() const { return length_; }
  Napi::Value take(Napi::Env env) const;

 private:
  napi_ref reference_ = nullptr;
  float* data_ = nullptr;
  size_t length_;
};

}  // namespace ddad::bind
