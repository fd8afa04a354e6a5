#pragma once
// f(x_0) of images that training sees again and again.
#include <array>
#include <cstdint>
#include <map>
#include <vector>

namespace ddad {

/// Features by the pixels that they are of. Takes images until it is full and then keeps those it has: in passes over
/// more images than fit, the last used are never the next. Memory is taken when an image is seen for the first time.
class FeatureCache {
 public:
  /// Features are `floats` long; all of them take at most `bytes`.
  FeatureCache(int64_t floats, int64_t bytes) : floats_(floats), limit_(bytes) {}

  using Key = std::array<uint64_t, 2>;
  /// A hash of `count` pixels, wide enough that two images never share it.
  static Key keyOf(const float* pixels, int64_t count);

  /// The features of a key; null where they are not known.
  const float* find(const Key& key) const;
  /// Keeps a copy of `features` where there is room.
  void insert(const Key& key, const float* features);
  int64_t bytes() const {
    return static_cast<int64_t>(entries_.size()) * floats_ * static_cast<int64_t>(sizeof(float));
  }
  void clear() { entries_.clear(); }

 private:
  int64_t floats_, limit_;
  std::map<Key, std::vector<float>> entries_;
};

}  // namespace ddad
