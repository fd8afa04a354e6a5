#pragma once
// Places buffers with known lifetimes into one block: buffers whose lifetimes do not meet may share memory.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ddad {

class ArenaPlan {
 public:
  /// Asks for `floats` that must stay intact from step `first` to step `last` (both included); returns the buffer's id.
  int add(int64_t floats, int first, int last);
  /// Lengthens a lifetime so that it covers `step`.
  void extend(int id, int step);
  /// Chooses the offsets: largest first, each at the lowest place that is free over its lifetime.
  void place();
  /// Offset in floats, a multiple of 16 (64 bytes); valid after place().
  int64_t offset(int id) const { return buffers_[static_cast<size_t>(id)].offset; }
  /// Size of the block in floats; valid after place().
  int64_t total() const { return total_; }

 private:
  struct Buffer {
    int64_t size;
    int first, last;
    int64_t offset;
  };
  std::vector<Buffer> buffers_;
  int64_t total_ = 0;
};

}  // namespace ddad
