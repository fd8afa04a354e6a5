#include "base/arena.h"

#include <algorithm>
#include <numeric>

namespace ddad {

int ArenaPlan::add(int64_t floats, int first, int last) {
  buffers_.push_back({(floats + 15) / 16 * 16, first, last, 0});
  return static_cast<int>(buffers_.size()) - 1;
}

void ArenaPlan::extend(int id, int step) {
  Buffer& b = buffers_[static_cast<size_t>(id)];
  b.first = std::min(b.first, step);
  b.last = std::max(b.last, step);
}

void ArenaPlan::place() {
  std::vector<size_t> order(buffers_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return buffers_[a].size > buffers_[b].size; });
  std::vector<const Buffer*> placed, meeting;
  total_ = 0;
  for (size_t index : order) {
    Buffer& buffer = buffers_[index];
    meeting.clear();
    for (const Buffer* other : placed)
      if (other->first <= buffer.last && buffer.first <= other->last) meeting.push_back(other);
    std::sort(meeting.begin(), meeting.end(), [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; });
    int64_t offset = 0;
    for (const Buffer* other : meeting) {
      if (offset + buffer.size <= other->offset) break;
      offset = std::max(offset, other->offset + other->size);
    }
    buffer.offset = offset;
    total_ = std::max(total_, offset + buffer.size);
    placed.push_back(&buffer);
  }
}

}  // namespace ddad
