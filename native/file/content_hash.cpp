#include "file/content_hash.h"

#include <cstring>
#include <span>

#include "blake3/blake3.h"
#include "xxhash/xxhash.h"
#if defined(__x86_64__)
#include "xxhash/xxh_x86dispatch.h"
#endif

namespace ddad {
namespace {

std::string digits(std::span<const unsigned char> bytes) {
  std::string text;
  for (const unsigned char byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace

struct ContentHash::State {
  blake3_hasher hasher;
};

ContentHash::ContentHash() : state_(std::make_unique<State>()) { blake3_hasher_init(&state_->hasher); }
ContentHash::~ContentHash() = default;

void ContentHash::update(const void* data, size_t bytes) {
  if (bytes > 0) blake3_hasher_update(&state_->hasher, data, bytes);
}

std::string ContentHash::hex() const {
  unsigned char digest[BLAKE3_OUT_LEN];
  blake3_hasher_finalize(&state_->hasher, digest, sizeof digest);
  return digits(digest);
}

struct DamageHash::State {
  XXH3_state_t* state = XXH3_createState();
  State() = default;
  ~State() { XXH3_freeState(state); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

DamageHash::DamageHash() : state_(std::make_unique<State>()) {
  if (!state_->state) throw std::bad_alloc();
  reset();
}
DamageHash::~DamageHash() = default;

void DamageHash::reset() { XXH3_128bits_reset(state_->state); }

void DamageHash::update(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->state, data, bytes);
}

DamageHash::Value DamageHash::value() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->state));
  Value value;
  std::memcpy(value.data(), canonical.digest, value.size());
  return value;
}

std::string hexOf(const DamageHash::Value& value) { return digits(value); }

}  // namespace ddad
