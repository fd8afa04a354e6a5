#pragma once

namespace ddad {

enum class PixelType { kU8, kU16, kF32 };  // 0..255, 0..65535, 0..1

/// Pixels of one image where they lie: row-major, channels interleaved.
struct PixelView {
  const void* data = nullptr;
  PixelType type = PixelType::kU8;
  int width = 0, height = 0, channels = 0;
};

}  // namespace ddad
