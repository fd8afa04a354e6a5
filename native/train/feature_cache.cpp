#include "train/feature_cache.h"

#include <cstring>

namespace ddad {
namespace {

/// Spreads the bits of a word (the finaliser of SplitMix64).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

FeatureCache::Key FeatureCache::keyOf(const float* pixels, int64_t count) {
  Key key = {static_cast<uint64_t>(count), ~static_cast<uint64_t>(count)};
  for (int64_t i = 0; i < count; i += 2) {
    uint64_t word = 0;
    std::memcpy(&word, pixels + i, i + 1 < count ? 8 : 4);
    key[0] = mix(key[0] ^ word);
    key[1] = (key[1] ^ word) * 0x9fb21c651e98df25ULL;
    key[1] ^= key[1] >> 29;
  }
  return key;
}

const float* FeatureCache::find(const Key& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : it->second.data();
}

void FeatureCache::insert(const Key& key, const float* features) {
  if (bytes() + floats_ * static_cast<int64_t>(sizeof(float)) > limit_) return;
  entries_.emplace(key, std::vector<float>(features, features + floats_));
}

}  // namespace ddad
