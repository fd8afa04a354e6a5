#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <string>

namespace ddad {

/// BLAKE3 with 256 bits, of bytes that come a piece at a time: nobody finds other bytes with the same one.
class ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  ContentHash(const ContentHash&) = delete;
  ContentHash& operator=(const ContentHash&) = delete;

  void update(const void* data, size_t bytes);
  /// Of what has come so far: 64 digits, lower case.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3 with 128 bits likewise: several times faster, and against accidents alone.
class DamageHash {
 public:
  /// As written down: the highest byte first.
  using Value = std::array<unsigned char, 16>;

  DamageHash();
  ~DamageHash();
  DamageHash(const DamageHash&) = delete;
  DamageHash& operator=(const DamageHash&) = delete;

  void update(const void* data, size_t bytes);
  /// Of what has come so far.
  Value value() const;
  /// As if nothing had come.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// 32 digits, lower case.
std::string hexOf(const DamageHash::Value& value);

}  // namespace ddad
